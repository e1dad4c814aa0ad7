"""Engine: requests in, text out; one frozen base, any mix of adapters in every step."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch

from lorid_engine.engine.adapter_slots import NUM_SLOTS, AdapterRunner, AdapterSlots
from lorid_engine.engine.assemble import assemble
from lorid_engine.engine.batch import StepBatch, StepResult
from lorid_engine.engine.options import EngineOptions, base_folder
from lorid_engine.engine.outputs import EngineStats, logprob_entries, refused_output, request_output
from lorid_engine.engine.pages import PAGE_SIZE, PagePool
from lorid_engine.engine.prompt import PromptReader
from lorid_engine.engine.replacement import replaced_token
from lorid_engine.engine.request import Request, RequestOutput
from lorid_engine.engine.scheduler import Scheduler
from lorid_engine.engine.sequence import Group, Sequence, philox_key
from lorid_engine.engine.text import TextStream
from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import AdapterError, CapacityError, LoridError, RequestError
from lorid_engine.model.adapters import LoraAdapter, check_adapter, load_adapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.weights import Checkpoint, TensorSource


class StepRunner(AdapterRunner, Protocol):
    """What the engine needs of a runner."""

    def run(self, batch: StepBatch) -> StepResult:
        """Runs one step."""

    def start_profile(self) -> None:
        """Times the phases of every step from now on."""

    def profile(self) -> dict[str, float]:
        """Seconds by kind of phase since start_profile."""


class Engine:
    """Generates text with a frozen base and LoRA adapters; requests of any adapter or none share every step.

    Not safe for use by several threads at once. In a child process, make a new one after a start by "spawn": torch's own
    thread pool does not outlive a fork.

    Args:
        base: a folder in Hugging Face's format, a .gguf file (converted once into the cache), or a hub's model
            (organisation/name; fetched by huggingface_hub into its own cache).
        adapters: folders in PEFT's format, by the name that requests use.
        revision: branch, tag or commit of a hub's model.
        dtype: "bfloat16" (summed in float32), "float32" throughout, or on a GPU "float16".
        device: "cpu", or "cuda" (or "cuda:1", ...): the Triton kernels on an NVIDIA GPU.
        threads: of a step on the CPU; default LORID_THREADS or the cores that the process may use.
        max_batch_rows: most sequences of a step.
        kv_memory: bytes for KV pages; default at most what max_batch_rows full contexts need: on the CPU half of the free
            memory up to 2 GiB, on a GPU 0.85 of what is free beside the weights.
        max_batch_tokens: most tokens of a step; longer prompts are computed in chunks.
        active_adapters: how many adapters a step is expected to use, base rows counting as one more. It decides, with the
            shapes, which adapters are merged into a copy of the weight when they are loaded (`lorid doctor` shows the rule).

    Raises:
        ConfigError, CheckpointError, AdapterError, BackendUnavailableError, CapacityError: what cannot be used, and why.
    """

    def __init__(
        self,
        base: str | os.PathLike[str],
        adapters: Mapping[str, str | os.PathLike[str]] | None = None,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "bfloat16",
        device: str = "cpu",
        threads: int | None = None,
        max_batch_rows: int = 64,
        kv_memory: int | None = None,
        max_batch_tokens: int = 512,
        active_adapters: int = 2,
    ) -> None:
        options = EngineOptions(dtype, device, threads, max_batch_rows, kv_memory, max_batch_tokens, active_adapters)
        folder = base_folder(base, revision)
        config = ModelConfig.from_folder(folder)
        self._build(Checkpoint(folder), config, Tokenizer.from_folder(folder), options)
        for name, path in (adapters or {}).items():
            self.load_adapter(name, path)

    @classmethod
    def from_tensors(
        cls, source: TensorSource, config: ModelConfig, tokenizer: Tokenizer, options: EngineOptions
    ) -> Engine:
        """An engine over tensors that need not lie in a folder.

        Raises:
            CheckpointError, CapacityError: what cannot be used, and why.
        """
        engine = cls.__new__(cls)
        engine._build(source, config, tokenizer, options)
        return engine

    def _build(self, source: TensorSource, config: ModelConfig, tokenizer: Tokenizer, options: EngineOptions) -> None:
        runner: StepRunner
        if options.uses_kernels:
            from lorid_engine.engine.device_runner import DeviceRunner

            runner = DeviceRunner(source, config, options, num_slots=NUM_SLOTS)
            num_pages = runner.num_pages
        else:
            from lorid_engine.engine.runner import build_runner

            runner, num_pages = build_runner(source, config, options, num_slots=NUM_SLOTS)
        rows = options.max_batch_rows
        gather = 1 if options.device == "cpu" else -(-rows // 8)
        self._start(runner, tokenizer, config, num_pages, rows, options.max_batch_tokens, gather)

    def _start(
        self,
        runner: StepRunner,
        tokenizer: Tokenizer,
        config: ModelConfig,
        num_pages: int,
        max_batch_rows: int,
        max_batch_tokens: int,
        gather: int = 1,
    ) -> None:
        """The part of construction that does not load a model: tests put a runner of their own under the engine."""
        self.config, self.tokenizer, self.max_batch_rows = config, tokenizer, max_batch_rows
        self._runner = runner
        self._pool = PagePool(num_pages)
        self._scheduler = Scheduler(self._pool, max_batch_rows, max_batch_tokens, gather)
        self._groups: dict[str, Group] = {}
        self._adapters = AdapterSlots(runner)
        self._prompts = PromptReader(tokenizer, config, num_pages)
        self._half_done = False
        self._arrivals = itertools.count()
        self._names = itertools.count()
        self._undelivered: dict[str, Group] = {}  # whose outputs have news
        self._steps = self._prompt_tokens = self._generated_tokens = self._cached_tokens = 0
        self._step_seconds = 0.0

    # Adapters

    def load_adapter(self, name: str, adapter: str | os.PathLike[str] | LoraAdapter) -> None:
        """Loads a LoRA adapter under a new name.

        Args:
            name: by which requests ask for it.
            adapter: a folder in PEFT's format, or matrices.

        Raises:
            AdapterError: the name is taken, no slot is free, or the adapter cannot be used with this base.
        """
        slot = self._adapters.find_free(name)
        if isinstance(adapter, LoraAdapter):
            check_adapter(adapter, self.config)
        else:
            adapter = load_adapter(name, Path(adapter), self.config)
        self._adapters.load(name, slot, adapter)

    def delete_adapter(self, name: str) -> None:
        """Unloads an adapter.

        Raises:
            AdapterError: no such adapter, or requests still use it.
        """
        slot = self._adapters.slot(name)
        users = sum(group.slot == slot for group in self._groups.values())
        if users:
            raise AdapterError(f"adapter {name!r} is used by {users} unfinished requests; finish or abort them first")
        self._adapters.delete(name)

    def require_adapter(self, name: str) -> None:
        """Raises AdapterError, with the names that are loaded, unless this one is."""
        self._adapters.slot(name)

    # Requests

    def add_request(self, request: Request) -> str:
        """Takes a request; it runs with the next step().

        Returns:
            Its id.

        Raises:
            RequestError, AdapterError, CapacityError: it cannot be served; nothing else is affected.
        """
        if not isinstance(request, Request):
            raise RequestError(f"a request must be a Request; got {type(request).__name__}")
        request_id = request.request_id or self._new_name()
        if request_id in self._groups:
            raise RequestError(f"there is an unfinished request {request_id!r} already")
        prompt_ids = tuple(self._prompts.read(request.prompt))
        slot = -1 if request.adapter is None else self._adapters.slot(request.adapter)
        root = b"base" if request.adapter is None else self._adapters.root(request.adapter)
        seed = request.sampling.seed
        seed = int.from_bytes(os.urandom(8), "little") if seed is None else seed
        text = request.prompt if isinstance(request.prompt, str) else None
        key = philox_key(seed, request.key)
        group = Group(request, request_id, text, prompt_ids, slot, root, key, next(self._arrivals))
        for index in range(request.sampling.n):
            stream = TextStream(
                self.tokenizer,
                tuple(request.sampling.stop or ()),
                keep_stop=request.sampling.include_stop_str_in_output,
            )
            group.sequences.append(Sequence(group, index, list(prompt_ids), stream, waits_for_prompt=index > 0))
        with self._changing():
            self._groups[request_id] = group
            self._scheduler.add(group.sequences[0])
        return request_id

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Surrounds a change of what runs: one that was cut short, by Ctrl-C say, is put right before the next begins."""
        if self._half_done:
            self._recover()
        self._half_done = True
        yield
        self._half_done = False

    def _new_name(self) -> str:
        """An id that no unfinished request has."""
        return next(name for number in self._names if (name := str(number)) not in self._groups)

    def require_room(self, text: str) -> None:
        """Raises RequestError if a text cannot fit into the context whatever its tokens are, without encoding it."""
        self._prompts.require_room(text)

    def abort_request(self, request_id: str) -> bool:
        """Ends a request at once; what it generated is lost. False if it has finished already or never was."""
        self._undelivered.pop(request_id, None)
        if request_id not in self._groups:
            return False
        with self._changing():
            for sequence in self._groups.pop(request_id).sequences:
                self._scheduler.remove(sequence)
        return True

    def has_unfinished_requests(self) -> bool:
        """Whether step() has anything to do or to deliver."""
        return bool(self._groups or self._undelivered)

    # Steps

    def start_profile(self) -> None:
        """Times what the kernels do in every step from now on."""
        self._runner.start_profile()

    def profile(self) -> dict[str, float]:
        """Seconds by kind of kernel since start_profile; what a step takes beyond their sum is Python and the scheduler."""
        return self._runner.profile()

    def step(self) -> list[RequestOutput]:
        """Runs one forward pass and returns every request that got a token or ended, its text so far included.

        If it raises, wherever it was (Ctrl-C), no request is lost: the next step does again what this one had not finished.
        """
        with self._changing():
            self._advance()
        outputs = [request_output(group) for group in self._undelivered.values()]
        self._undelivered = {}
        return outputs

    def step_for(self, mine: Container[str], *, finished: bool = False) -> list[RequestOutput]:
        """One step, and the outputs of these request ids; those of others are kept for the next call of step().

        Args:
            finished: only the outputs of requests that have ended.
        """
        with self._changing():
            self._advance()
        kept, ready = {}, []
        for request_id, group in self._undelivered.items():
            if request_id not in mine:
                kept[request_id] = group
            elif group.finished or not finished:
                ready.append(request_output(group))
        self._undelivered = kept
        return ready

    def _advance(self) -> None:
        if not self._groups:
            return
        plan = self._scheduler.schedule()
        if plan.starved is not None:
            self._fail_starved(plan.starved)
            return
        batch, drawing = assemble(plan)
        start = time.perf_counter()
        result = self._runner.run(batch)
        self._step_seconds += time.perf_counter() - start
        self._steps += 1
        self._prompt_tokens += len(batch.token_ids) - len(drawing)
        self._generated_tokens += len(drawing)
        for sequence, count in plan.rows:
            sequence.computed += count
            self._fork_waiting(sequence)
        for row, sequence in enumerate(drawing):
            self._take_token(sequence, int(result.token_ids[row]), result, row)
        for group in {sequence.group: None for sequence in drawing}:
            self._deliver(group)

    def _recover(self) -> None:
        """After a change that was cut short: tokens taken in whole stay, all else is computed and drawn again, alike."""
        for group in tuple(self._groups.values()):
            if group.finished:
                self._deliver(group)
        unfinished = [s for group in self._groups.values() for s in group.sequences if s.finish_reason is None]
        for sequence in unfinished:
            sequence.rewind()
        self._scheduler.reset([sequence for sequence in unfinished if not sequence.waits_for_prompt])

    def _fork_waiting(self, sequence: Sequence) -> None:
        """Starts samples 1 to n - 1 once sample 0 has their prompt in pages."""
        if sequence.index == 0 and sequence.computed >= len(sequence.group.prompt_ids):
            for child in sequence.group.sequences[1:]:
                if child.waits_for_prompt:
                    self._scheduler.fork(sequence, child)

    def _take_token(self, sequence: Sequence, token: int, result: StepResult, row: int) -> None:
        if sequence.finish_reason is not None:
            return  # another sample of its request failed in this step
        params = sequence.group.request.sampling
        if token < 0:
            self._fail(sequence, RequestError("no logit of this request is a number; its adapter or base is damaged"))
            return
        replace = sequence.group.request.replace_token
        if replace is not None:
            found = replaced_token(replace, sequence.stream.text, token, self.config.vocab_size)
            if isinstance(found, RequestError):
                self._fail(sequence, found)
                return
            token = found
        sequence.tokens.append(token)
        if params.logprobs is not None:
            sequence.logprobs.append(logprob_entries(self.tokenizer, token, params.logprobs, result, row))
        if token in self.config.eos_token_ids and not params.ignore_eos:
            self._end(sequence, "stop")
        elif token in (params.stop_token_ids or ()):
            if params.include_stop_str_in_output:
                sequence.stream.push(token)
            self._end(sequence, "stop", token)
        else:
            sequence.stream.push(token)
            if sequence.stream.stopped_by is not None:
                self._end(sequence, "stop", sequence.stream.stopped_by)
            elif len(sequence.output_ids) >= params.max_tokens or len(sequence.tokens) >= self.config.max_positions:
                self._end(sequence, "length")
        sequence.taken += 1  # last: a token counts when all that follows from it is done

    def _end(self, sequence: Sequence, reason: str, stop_reason: str | int | None = None) -> None:
        sequence.stream.finish()
        sequence.stop_reason = stop_reason
        sequence.finish_reason = reason
        self._scheduler.remove(sequence)

    def _fail(self, sequence: Sequence, error: LoridError) -> None:
        """Ends a request with an error; its samples keep what they have."""
        sequence.group.error = error
        for sample in sequence.group.sequences:
            if sample.finish_reason is None:
                self._end(sample, "error")

    def _fail_starved(self, sequence: Sequence) -> None:
        self._fail(
            sequence,
            CapacityError(
                f"out of KV pages: a sequence of {len(sequence.tokens)} tokens, alone, needs more than the "
                f"{self._pool.num_pages} pages of {PAGE_SIZE} tokens; raise kv_memory or lower max_tokens"
            ),
        )
        self._deliver(sequence.group)

    def _deliver(self, group: Group) -> None:
        """Puts a request's output where the next return of step() takes it from."""
        self._undelivered[group.request_id] = group
        if group.finished and self._groups.pop(group.request_id, None) is not None:
            self._cached_tokens += group.cached_tokens

    # Whole requests

    def generate(self, requests: Request | Iterable[Request]) -> list[RequestOutput]:
        """Runs requests to their end.

        Returns:
            Their outputs in order. One that cannot be served has `error` set and a sample whose finish_reason is "error"; the
            others are not affected. If it is interrupted, its unfinished requests are aborted.
        """
        if isinstance(requests, str | bytes):
            raise RequestError(f"generate takes Requests; got {type(requests).__name__}: wrap it in Request(...)")
        requests = [requests] if isinstance(requests, Request) else list(requests)
        done: dict[int, RequestOutput] = {}
        mine: dict[str, int] = {}
        try:
            for place, request in enumerate(requests):
                try:
                    mine[self.add_request(request)] = place
                except LoridError as error:
                    done[place] = refused_output(request, error)
            while len(done) < len(requests):
                for output in self.step_for(mine, finished=True):
                    done[mine[output.request_id]] = output
        finally:
            for request_id in mine:
                self.abort_request(request_id)
        return [done[place] for place in range(len(requests))]

    def stream(self, request: Request) -> Iterator[RequestOutput]:
        """Runs one request and yields its output after every token; closing the iterator aborts it.

        Raises:
            RequestError, AdapterError, CapacityError: it cannot be served.
        """
        request_id = self.add_request(request)
        try:
            while True:
                for output in self.step_for({request_id}):
                    yield output
                    if output.finished:
                        return
        finally:
            self.abort_request(request_id)

    def stats(self) -> EngineStats:
        """Counts and state, for logs and benchmarks."""
        return EngineStats(
            steps=self._steps,
            step_seconds=self._step_seconds,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            preemptions=self._scheduler.preemptions,
            live_sequences=sum(s.finish_reason is None for g in self._groups.values() for s in g.sequences),
            pages_held=self._pool.num_pages - self._pool.num_free,
            pages_cached=self._pool.num_cached,
            pages_total=self._pool.num_pages,
            adapters=self._adapters.names,
        )
