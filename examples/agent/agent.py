"""An agent without a model: it does research on digits.py through `backprop mcp` alone, as a coding agent would.

It edits one constant of the script, trains the edit with a few seeds, and keeps it if `verdict` says better. A model
would think of the edits; here they are a list. Needs two extras: pip install 'backprop-cli[mcp,stats]'. To try it:

    python examples/agent/agent.py research

Kill it, its server or a supervisor at any moment, and start it again: it goes on where it was. It writes no file but
the script. What it has done is in the runs: which there are (each start has a request id that follows from the edit and
the seed), how they ended, and what was decided on them.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters

EXAMPLES = Path(__file__).parents[1]
SCRIPT, DATA, CONSTANT = "digits.py", "digits.csv.gz", "BATCH"
GOAL = "max:test_accuracy"
MOST_SEEDS = 5  # for what is undecided with fewer
MOST_ROUNDS = 5  # of starts and resumes, until all seeds of an edit are trained
MOST_SERVERS = 20
STILL_ACTIVE = 124
VERDICTS = {0: "better", 20: "worse", 21: "tie", 22: "undecided"}
DECISIONS = {"better": "keep", "crash": "crash"}  # else: discard


class ToolError(Exception):
    """A tool has answered with an error."""


class Answer(NamedTuple):
    """What a tool answers: the exit code of the command behind it, and what that printed."""

    exit: int
    data: str

    def json(self) -> Any:
        """The document that comes first."""
        return json.JSONDecoder().raw_decode(self.data)[0]


class Tools:
    """The tools of a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, name: str, **arguments: Any) -> Answer:
        """Raises ToolError."""
        result = await self._client.call_tool(name, arguments)
        texts = [block.text for block in result.content]
        # the first part is the server's own; in the second, what lies between the marks is data of runs
        data = "\n".join(texts[1].splitlines()[2:-1]) if len(texts) > 1 else texts[0]
        if result.is_error:
            raise ToolError(f"{name}: {data}")
        return Answer(json.loads(texts[0])["exit"], data)


class Attempt(NamedTuple):
    """A run of one edit with one seed."""

    run: str
    seed: int
    number: int
    status: str
    sessions: int
    decision: str | None

    @property
    def has_ended(self) -> bool:
        return self.status not in {"queued", "running", "paused"}


class Plan(NamedTuple):
    """What to try."""

    values: list[int]  # of the constant; the first is the baseline
    seeds: int  # runs for each, at first
    arguments: list[str]  # of each run


class Research:
    """The edits in their order. Everything it knows, it asks for."""

    def __init__(self, tools: Tools, script: Path, plan: Plan) -> None:
        self._call = tools.call
        self._script = script
        self._plan = plan

    async def go_on(self) -> int:
        """Decide on all edits that are not decided on; the best value of the constant."""
        best = self._plan.values[0]
        for value in self._plan.values:
            decided = [one.decision for one in await self._attempts(value) if one.decision is not None]
            decision = decided[0] if decided else await self._decide(value, best)
            print(f"{CONSTANT} = {value}: {decision}", flush=True)
            if decision == "keep":
                best = value
        self._edit(best)
        return best

    async def _decide(self, value: int, best: int) -> str:
        """Train the edit, compare it with the best one so far, and write down what was decided."""
        seeds, verdict = self._plan.seeds, "undecided"
        while verdict == "undecided" and seeds <= MOST_SEEDS:
            if not await self._train(value, seeds):
                verdict = "crash"
            elif value == best:
                verdict = "better"  # than nothing: the baseline
            else:
                await self._train(best, seeds)
                sides = [f"group={group(one)} status=completed" for one in (best, value)]
                answer = await self._call("verdict", baseline=sides[0], candidates=sides[1:], goal=GOAL, at="end")
                verdict = VERDICTS[answer.exit]
            seeds += 1
        decision = DECISIONS.get(verdict, "discard")
        first = (await self._attempts(value))[0].run
        await self._call("note", run=first, text=f"{CONSTANT} = {value}: {verdict}", decide=decision)
        return decision

    async def _train(self, value: int, seeds: int) -> bool:
        """Let the edit be trained with seeds 1 to `seeds`; False if one of them cannot be."""
        self._edit(value)
        for _ in range(MOST_ROUNDS):
            attempts = {one.seed: one for one in await self._attempts(value)}  # the last of each seed
            missing = [seed for seed in range(1, seeds + 1) if not is_done(attempts.get(seed))]
            if not missing:
                return True
            for seed in missing:
                await self._advance(value, seed, attempts.get(seed))
            active = [one.run for one in await self._attempts(value) if not one.has_ended]
            while active and (await self._call("wait", runs=active, seconds=50)).exit == STILL_ACTIVE:
                pass
        return False

    async def _advance(self, value: int, seed: int, last: Attempt | None) -> None:
        """Start, or resume, what has not completed. Where that fails, the next look shows what there is."""
        if last is not None and not last.has_ended:
            return
        if last is not None and last.sessions:
            try:
                await self._call("resume", run=last.run, request_id=f"{last.run}:{last.sessions + 1}")
            except ToolError:  # it has no checkpoint
                print(f"run {last.run} ({last.status}) is trained anew", flush=True)
            else:
                print(f"run {last.run} ({last.status}) is resumed", flush=True)
                return
        try:
            await self._call(
                "start",
                script=SCRIPT,
                args=["--seed", str(seed), *self._plan.arguments],
                minutes=5,
                group=group(value),
                note=f"{CONSTANT} = {value}",
                request_id=f"{group(value)}:{seed}:{1 if last is None else last.number + 1}",
            )
        except ToolError as error:
            print(error, flush=True)

    async def _attempts(self, value: int) -> list[Attempt]:
        """Oldest first."""
        fields = "id,status,request_id,decision,sessions.-1.number"
        answer = await self._call("runs", filter=f"group={group(value)}", fields=fields, limit=100, max_chars=20_000)
        found = []
        for run in reversed(answer.json()):
            _, seed, number = run["request_id"].split(":")
            sessions = run["sessions.-1.number"] or 0
            found.append(Attempt(run["id"], int(seed), int(number), run["status"], sessions, run["decision"]))
        return found

    def _edit(self, value: int) -> None:
        """Give the constant of the script its value, in one step."""
        line = f"{CONSTANT} = {value}"
        text = re.sub(rf"^{CONSTANT} = .*$", line, self._script.read_text(), flags=re.MULTILINE)
        draft = self._script.with_suffix(".new")
        draft.write_text(text)
        draft.replace(self._script)


def group(value: int) -> str:
    """The group of the runs of an edit."""
    return f"{CONSTANT.lower()}-{value}"


def is_done(attempt: Attempt | None) -> bool:
    return attempt is not None and attempt.status == "completed"


async def research(folder: Path, command: str, plan: Plan) -> int:
    """The best value. A server that is killed is replaced: nothing that matters was in it."""
    server = StdioServerParameters(command=command, args=["mcp", "--allow", "run"], cwd=folder, env=dict(os.environ))
    for _ in range(MOST_SERVERS):
        async with Client(server) as client:
            try:
                return await Research(Tools(client), folder / SCRIPT, plan).go_on()
            except MCPError as error:
                print(f"the server has gone ({error}); starting another", flush=True)
    raise SystemExit("servers do not stay")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the script is edited")
    parser.add_argument("--backprop", default="backprop", metavar="PATH", help="the command")
    parser.add_argument("--values", default="32,256,8,4", help=f"what {CONSTANT} may be, the baseline first")
    parser.add_argument("--seeds", type=int, default=3, help="runs for each edit, at first")
    parser.add_argument("--epochs", default="1", help="of each run")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in (SCRIPT, DATA):
        if not (args.folder / name).exists():
            shutil.copy(EXAMPLES / name, args.folder)
    values = [int(value) for value in args.values.split(",")]
    plan = Plan(values, args.seeds, ["--epochs", args.epochs, "--save-every", "100"])
    best = asyncio.run(research(args.folder.absolute(), args.backprop, plan))
    print(f"best: {CONSTANT} = {best}")


if __name__ == "__main__":
    main()
