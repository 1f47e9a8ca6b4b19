"""Every message arrives once and in order, whatever happens to the connections."""

import asyncio
import contextlib
import random

import pytest
from distributed.comm import connect, listen

from nbcloud.sessions.channel import Channel


class Peers:
    """Two channels over real connections, made again whenever they break."""

    def __init__(self):
        self.at_server, self.at_client = [], []
        self.server = Channel(lambda message: self.at_server.append(message["n"]))
        self.client = Channel(lambda message: self.at_client.append(message["n"]))
        self.connections = 0
        self.comms = []

    async def _serve(self, comm):
        self.comms.append(comm)
        hello = await comm.read()
        self.server.abort()
        await comm.write({"received": self.server.received})
        await self.server.run(comm, hello["received"])

    async def _dial(self):
        while True:
            with contextlib.suppress(OSError):
                comm = await connect(self.listener.contact_address)
                self.comms.append(comm)
                await comm.write({"received": self.client.received})
                welcome = await comm.read()
                self.connections += 1
                await self.client.run(comm, welcome["received"])

    async def __aenter__(self):
        self.listener = await listen("tcp://127.0.0.1:0", self._serve)
        self.task = asyncio.create_task(self._dial())
        return self

    async def __aexit__(self, *error):
        self.task.cancel()
        self.listener.stop()
        for comm in self.comms:
            comm.abort()
        await asyncio.gather(self.task, return_exceptions=True)


async def _until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("seed", range(6))
def test_connections_aborted_at_random_points_lose_and_double_nothing(seed):
    chance = random.Random(seed)

    async def scenario():
        async with Peers() as peers:
            total = 400
            for number in range(total):
                size = chance.choice([0, 10, 10, 10, 100_000])
                peers.server.post({"n": number, "data": bytes(size)})
                peers.client.post({"n": number, "data": bytes(size)})
                if chance.random() < 0.06:
                    for _ in range(chance.randrange(12)):
                        await asyncio.sleep(0)
                    if chance.random() < 0.3:
                        await asyncio.sleep(chance.random() / 100)
                    comm = chance.choice(peers.comms[-2:] or [None])
                    if comm is not None:
                        comm.abort()
            await _until(lambda: len(peers.at_server) >= total and len(peers.at_client) >= total)
            assert peers.connections > 1
            return peers.at_server, peers.at_client

    for arrived in asyncio.run(scenario()):
        assert arrived == list(range(400))


def test_the_old_connection_delivers_nothing_after_a_new_one_took_over():
    async def scenario():
        async with Peers() as peers:
            await _until(lambda: peers.server.connected and peers.client.connected)
            for number in range(300):
                peers.client.post({"n": number, "data": bytes(20_000)})
                if number % 50 == 20:
                    await asyncio.sleep(0)
                    peers.client.abort()  # what lies in the sockets is still under way
            await _until(lambda: len(peers.at_server) >= 300)
            assert peers.at_server == list(range(300))

    asyncio.run(scenario())


def test_messages_posted_without_a_connection_wait_for_one():
    async def scenario():
        peers = Peers()
        for number in range(5):
            peers.client.post({"n": number})
        async with peers:
            await _until(lambda: len(peers.at_server) == 5)
        assert peers.at_server == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_a_message_that_cannot_be_dealt_with_does_not_cut_off_the_next(caplog):
    async def scenario():
        async with Peers() as peers:
            got = []

            def receive(message):
                got.append(message["n"])
                if message["n"] == 1:
                    raise RuntimeError("what is this?")

            peers.server._receive = receive
            for number in range(4):
                peers.client.post({"n": number})
            await _until(lambda: len(got) >= 4)
            assert got == [0, 1, 2, 3]
            assert peers.connections == 1

    asyncio.run(scenario())
    assert "what is this?" in caplog.text


def test_a_poster_waits_until_the_other_side_has_taken_most_of_it():
    async def scenario():
        async with Peers() as peers:
            for number in range(20):
                peers.client.post({"n": number, "data": bytes(2**20)})
            assert not peers.client._light.is_set()
            async with asyncio.timeout(20):
                await peers.client.light()
            assert len(peers.at_server) >= 10

    asyncio.run(scenario())


def test_what_was_confirmed_is_forgotten():
    async def scenario():
        async with Peers() as peers:
            peers.client.post({"n": 0, "data": bytes(2**19)})
            await _until(lambda: peers.at_server == [0] and not peers.client._unconfirmed)

    asyncio.run(scenario())
