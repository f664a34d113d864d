"""FedBench: a benchmark suite and leaderboard for federated learning on medical images.

This module is the public API. Names are imported when first used, so that what needs no torch does not load it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Batch": "training",
    "Cell": "cell",
    "Client": "client",
    "CsvFile": "datasets",
    "Data": "task",
    "DataError": "errors",
    "DataMissingError": "errors",
    "Dataset": "task",
    "Dirichlet": "partition",
    "DirichletSizes": "partition",
    "Download": "method",
    "Embedded": "datasets",
    "FedBenchError": "errors",
    "FEDKPER_PROTOCOL": "task",
    "Federation": "federation",
    "IID": "partition",
    "Limit": "method",
    "LogNormalSizes": "partition",
    "MedMNIST": "datasets",
    "Method": "method",
    "MethodError": "errors",
    "Natural": "partition",
    "NpzFile": "datasets",
    "Outcome": "outcome",
    "PartitionError": "errors",
    "Partitioner": "task",
    "PlainDirichlet": "partition",
    "PluginError": "errors",
    "Protocol": "task",
    "Provided": "datasets",
    "Range": "method",
    "Record": "records",
    "RecordError": "errors",
    "Server": "server",
    "Shards": "partition",
    "SiteStyles": "styles",
    "SpecError": "errors",
    "Styles": "task",
    "Suite": "cell",
    "Task": "task",
    "Upload": "method",
    "is_norm": "models",
    "is_running_statistic": "models",
    "Size": "method",
    "simplex": "method",
}

if TYPE_CHECKING:
    from fedbench.cell import Cell as Cell
    from fedbench.cell import Suite as Suite
    from fedbench.client import Client as Client
    from fedbench.datasets import CsvFile as CsvFile
    from fedbench.datasets import Embedded as Embedded
    from fedbench.datasets import MedMNIST as MedMNIST
    from fedbench.datasets import NpzFile as NpzFile
    from fedbench.datasets import Provided as Provided
    from fedbench.errors import DataError as DataError
    from fedbench.errors import DataMissingError as DataMissingError
    from fedbench.errors import FedBenchError as FedBenchError
    from fedbench.errors import MethodError as MethodError
    from fedbench.errors import PartitionError as PartitionError
    from fedbench.errors import PluginError as PluginError
    from fedbench.errors import RecordError as RecordError
    from fedbench.errors import SpecError as SpecError
    from fedbench.federation import Federation as Federation
    from fedbench.method import Download as Download
    from fedbench.method import Limit as Limit
    from fedbench.method import Method as Method
    from fedbench.method import Predictor as Predictor
    from fedbench.method import Range as Range
    from fedbench.method import Size as Size
    from fedbench.method import Upload as Upload
    from fedbench.method import simplex as simplex
    from fedbench.models import is_norm as is_norm
    from fedbench.models import is_running_statistic as is_running_statistic
    from fedbench.outcome import Outcome as Outcome
    from fedbench.partition import IID as IID
    from fedbench.partition import Dirichlet as Dirichlet
    from fedbench.partition import DirichletSizes as DirichletSizes
    from fedbench.partition import LogNormalSizes as LogNormalSizes
    from fedbench.partition import Natural as Natural
    from fedbench.partition import PlainDirichlet as PlainDirichlet
    from fedbench.partition import Shards as Shards
    from fedbench.records import Record as Record
    from fedbench.server import Server as Server
    from fedbench.styles import SiteStyles as SiteStyles
    from fedbench.task import FEDKPER_PROTOCOL as FEDKPER_PROTOCOL
    from fedbench.task import Data as Data
    from fedbench.task import Dataset as Dataset
    from fedbench.task import Partitioner as Partitioner
    from fedbench.task import Protocol as Protocol
    from fedbench.task import Styles as Styles
    from fedbench.task import Task as Task
    from fedbench.training import Batch as Batch

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fedbench' has no attribute {name!r}")
    return getattr(import_module(f"fedbench.{_HOME[name]}"), name)
