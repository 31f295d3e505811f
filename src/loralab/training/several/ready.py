"""A run made ready, the same in all of its processes."""

from collections.abc import Sequence
from dataclasses import replace

from loralab.formats.save import base_print
from loralab.processes.group import Processes
from loralab.processes.sharding import shards_of
from loralab.training.config import TrainConfig
from loralab.training.prepare import Prepared, lay_ground, prepare, prepare_on
from loralab.training.several.alike import make_alike
from loralab.training.several.sharding import check_sharded, on_host, parts_of, shard_base


def ready(config: TrainConfig, dtype: str, labels: Sequence[str], processes: Processes) -> Prepared:
    """The run as `prepare` makes it, the same in all processes; with `shard` each keeps its part of the base, one after
    another, so that a machine never holds more than one whole base.
    """
    if not config.shard:
        prepared = processes.together(lambda: _printed(prepare(config, dtype, labels, processes)))
        make_alike(prepared)
        return prepared
    check_sharded(config, processes)
    prepared = _in_parts(config, dtype, labels, replace(processes, in_step=True))
    make_alike(prepared)
    return prepared


def _in_parts(config: TrainConfig, dtype: str, labels: Sequence[str], processes: Processes) -> Prepared:
    """A base that is packed is cut layer by layer while it is, and what an adapter starts from is gathered, which takes
    all processes; otherwise the adapter starts from the whole base, which is mapped from its file, and is cut last.
    """
    shards = shards_of(processes, parts_of(config.shard, processes))
    loading, precision = on_host(config, dtype, processes)
    if config.quantize is None:
        return processes.in_turn(
            lambda: shard_base(config, _printed(prepare(loading, precision, labels, processes, shards)), shards)
        )
    ground = processes.in_turn(lambda: lay_ground(loading, precision, labels, processes, shards))
    return processes.together(lambda: shard_base(config, _printed(prepare_on(ground, loading)), shards))


def _printed(prepared: Prepared) -> Prepared:
    """With the fingerprint of its base, where others are to be compared with it."""
    if not prepared.processes.are_several:
        return prepared
    return replace(prepared, base=base_print(prepared.trainee.adapter, prepared.loaded.model))
