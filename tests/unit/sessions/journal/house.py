"""A real scheduler with the journal; its clients and one worker's host are channels that the tests hold."""

import asyncio
import json

from distributed import Scheduler
from distributed.comm import connect

from nbcloud.sessions.channel import PROTOCOL, Channel
from nbcloud.sessions.host.run import HostedRun
from nbcloud.sessions.journal.journal import PLUGIN, Journal
from nbcloud.sessions.journal.members import LiveSession

FRAMES = {"header": b'{"msg_id": "m"}', "parent": b"{}", "metadata": b"{}", "content": b"{}", "buffers": []}
REQUEST = {"session": "s-1", "timeout": None, **FRAMES}


class Peer:
    """A client or a host, over a real connection to the scheduler."""

    def __init__(self, house, operation, **facts):
        self.house, self.operation, self.facts = house, operation, facts
        self.got = []
        self.channel = Channel(self.got.append)
        self.welcome = {}
        self.task = None
        self.asks = 0

    async def connect(self):
        comm = await connect(self.house.scheduler.address)
        hello = {"protocol": PROTOCOL, "received": self.channel.received, **self.facts}
        await comm.write({"op": self.operation, "reply": False, "hello": hello})
        self.welcome = await comm.read()
        if self.welcome.get("forgotten"):
            comm.abort()
        else:
            self.task = asyncio.create_task(self.channel.run(comm, self.welcome["received"]))
            await asyncio.sleep(0)
        return self

    async def leave(self):
        self.channel.abort()
        await self.task

    async def expect(self, operation, **fields):
        """Wait for the first message of this kind, and take it."""

        def fits(message):
            return message["op"] == operation and fields.items() <= message.items()

        async with asyncio.timeout(10):
            while not any(map(fits, self.got)):
                await asyncio.sleep(0.002)
        found = next(message for message in self.got if fits(message))
        self.got.remove(found)
        return found

    async def ask(self, operation, **fields):
        self.asks += 1
        name = f"{id(self)}-{self.asks}"
        self.channel.post({"op": operation, "ask": name, **fields})
        return await self.expect("answer", ask=name)


class House:
    """The scheduler, with one host and one session in it."""

    def __init__(self, directory):
        self.directory = directory
        self.peers = []
        self.runs = {}

    async def __aenter__(self):
        self.scheduler = await Scheduler(
            host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0"
        )
        self.journal = Journal(str(self.directory), 10_000)
        await self.scheduler.register_scheduler_plugin(plugin=self.journal, name=PLUGIN, idempotent=True)
        self.host = await self.peer(
            "nbcloud_host", id="h", worker="w1", name="w1", host="machine", spool="", token="", packages=""
        )
        self.session = LiveSession(
            "s-1", "s", "nb.ipynb", {}, 0.0, host=self.journal.table.hosts["w1"], state="ready"
        )
        self.journal.table.sessions["s-1"] = self.session
        return self

    async def __aexit__(self, *error):
        for peer in self.peers:
            peer.channel.abort()
        await asyncio.gather(*(peer.task for peer in self.peers if peer.task))
        await self.scheduler.close()

    async def peer(self, operation, **facts):
        self.peers.append(Peer(self, operation, **facts))
        return await self.peers[-1].connect()

    async def client(self, name):
        return await self.peer("nbcloud_client", id=name)

    async def begin(self, run):
        """The host gives a run to its kernel."""
        request = await self.host.expect("execute", run=run)
        self.runs[run] = HostedRun(request, self.host.channel, None)
        self.runs[run].begin({"session": "s-1"})

    def say(self, run, *texts):
        """The kernel prints."""
        texts = [json.dumps({"name": "stdout", "text": text}).encode() for text in texts]
        self.runs[run].say([(1.0, "stream", text, b"{}", []) for text in texts])

    def finish(self, run, state="done"):
        self.runs[run].end({"state": state, "why": "", "exit_code": None}, None)


def in_house(tmp_path, scenario):
    async def main():
        async with House(tmp_path) as house:
            await scenario(house)

    asyncio.run(main())


async def all_lines(client, run):
    """Lines of a run up to its end."""
    end = await client.expect("end", run=run)
    batches = [m for m in client.got if m["op"] == "messages" and m["run"] == run]
    lines = [json.loads(line) for batch in batches for line in batch["lines"].splitlines()]
    return lines, end


def start(client, run):
    client.channel.post({"op": "run", "ask": "", "run": run, **REQUEST})
