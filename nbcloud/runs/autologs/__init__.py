"""What ``nbcloud.autolog()`` puts into each framework."""
