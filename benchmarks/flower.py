"""FedAvg on Flower's simulation engine with two ray workers of one core each.

What a user of Flower writes: a ClientApp on tensors that are loaded once a worker, the strategy FedAvg, evaluation of
the global model on the server for the global test and validation sets, and on every client for its local test set. One
thing differs: the strategy samples the clients of the common schedule. Local models are evaluated where they are, at
the end of the client's training, so those few samples count as training time here.

It runs in an environment of its own (requirements-flower.txt), through `flwr.simulation.run_simulation`: deprecated in
favour of the command line in Flower 1.41, but the same engine, and without a server beside it.
"""

from __future__ import annotations

import os

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}  # read when the two are imported

import time
from collections.abc import Iterable

import torch
from flower_app import client_app, evaluate, network, preloaded
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from setting import Round, Setting, arguments, setting, tell


class Scheduled(FedAvg):
    """FedAvg over the clients of the common schedule, with a clock."""

    def __init__(self, the: Setting, grid: Grid) -> None:
        super().__init__(fraction_train=the.task.protocol.participation)
        self.the = the
        self.nodes = _nodes(grid, len(the.federation.train))
        self.rounds: list[Round] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the clients of this round to train."""
        self.begin = time.perf_counter()
        config["server-round"] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        nodes = [self.nodes[k] for k in self.the.federation.schedule[server_round - 1].tolist()]
        return self._construct_messages(record, nodes, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what came back."""
        answers = _without_error(replies, len(self.the.federation.schedule[server_round - 1]))
        result = super().aggregate_train(server_round, answers)
        self.middle = time.perf_counter()
        self.trained, self.evaluated = _total(answers, "passed"), _total(answers, "tested")
        return result

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the accuracies."""
        answers = _without_error(replies, len(self.nodes))
        self.evaluated += _total(answers, "num-examples")
        return super().aggregate_evaluate(server_round, answers)

    def on_server(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate the global model on the global test and validation sets, and end the round."""
        if server_round == 0:
            return None
        the, inputs, targets = preloaded(self.the.task.name, self.the.task.protocol.rounds)
        model = network(the)
        model.load_state_dict(arrays.to_torch_state_dict())
        for ids in (the.federation.global_test, the.federation.validation):
            result = evaluate(model, inputs[ids], targets[ids], the.task.protocol.evaluation_batch)
            self.evaluated += int(result["num-examples"])
        self.rounds.append(
            Round(
                train=self.middle - self.begin,
                evaluate=time.perf_counter() - self.middle,
                trained=self.trained,
                evaluated=self.evaluated,
            )
        )
        return result


def _nodes(grid: Grid, clients: int) -> dict[int, int]:
    """Return the node of each client; Flower draws the ids of nodes at random."""
    while len(nodes := list(grid.get_node_ids())) < clients:
        time.sleep(0.1)
    questions = [Message(RecordDict(), message_type=MessageType.QUERY, dst_node_id=node) for node in nodes]
    answers = _without_error(grid.send_and_receive(questions), clients)
    return {int(answer.content["metrics"]["client"]): answer.metadata.src_node_id for answer in answers}


def _without_error(replies: Iterable[Message], expected: int) -> list[Message]:
    answers = list(replies)
    for answer in answers:
        if answer.has_error():
            raise RuntimeError(f"node {answer.metadata.src_node_id}: {answer.error.reason}")
    if len(answers) != expected:
        raise RuntimeError(f"{len(answers)} of {expected} nodes answered")
    return answers


def _total(answers: Iterable[Message], name: str) -> int:
    return sum(int(answer.content["metrics"][name]) for answer in answers)


def main() -> None:
    """Measure one run."""
    given = arguments(__doc__).parse_args()
    the = setting(given.task, given.rounds)
    server_app = ServerApp()
    rounds: list[Round] = []

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        torch.manual_seed(1)
        strategy = Scheduled(the, grid)
        config = ConfigRecord({"task": given.task, "rounds": given.rounds})
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(network(the).state_dict()),
            num_rounds=given.rounds,
            train_config=config,
            evaluate_config=config,
            evaluate_fn=strategy.on_server,
        )
        rounds.extend(strategy.rounds)

    run_simulation(
        server_app,
        client_app,
        num_supernodes=len(the.federation.train),
        backend_config={"init_args": {"num_cpus": 2}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    tell(runs=[rounds])


if __name__ == "__main__":
    main()
