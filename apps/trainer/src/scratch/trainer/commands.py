"""What each command but `train` may be told, as settings from which its flags are made."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from .fields import AtLeastOne, Flag, JsonFlag, NotNegative, Positive, Seed, Settings, UpToOne

DatasetName = Literal["tinystories", "owt"]
Checkpoint = Literal["final", "latest", "best"] | int


class DownloadSettings(Settings):
    """Fetch a public data set; what is there already is not fetched again.

    trainer download tinystories
    trainer download owt --out data/raw
    """

    name: tyro.conf.Positional[DatasetName]
    """Which data set."""
    out: Path = Path("data/raw")
    """Directory to put its files into."""
    json_output: JsonFlag = False
    """Print one JSON object."""


class PrepareSettings(Settings):
    """Turn text files into a tokenizer and token files.

    trainer prepare tales.txt --out data/tales --vocab-size 4096
    trainer prepare train.txt.gz --validation valid.txt.gz --out data/tales
    trainer prepare posts.jsonl --json-field text --out data/posts
    trainer prepare crawl.jsonl.zst --out data/crawl --cluster tcp://node1:8786
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Text (documents parted by <|endoftext|>) or .jsonl (one a line), also as gzip or zstd."""
    out: Path
    """Directory to write."""
    vocab_size: Annotated[int, Field(ge=257)] = 4096
    """Tokens of the vocabulary, bytes and <|endoftext|> included."""
    validation: tuple[Path, ...] = ()
    """Files to hold out, instead of a fraction."""
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Share of the documents to hold out; of a text with few documents, its end."""
    tokenizer: Path | None = None
    """A tokenizer file to use instead of training one."""
    json_field: str = "text"
    """Where the text is in a line of a .jsonl file; a.b is the field b of the object at a."""
    shard_bytes: AtLeastOne = 2**26
    """About how much text goes into one token file."""
    workers: AtLeastOne | None = None
    """Processes; by default one for small inputs, else one a core."""
    cluster: str | None = None
    """Whose processes instead: a Dask scheduler's, by its address or file, or those of mpi."""
    json_output: JsonFlag = False
    """Print one JSON object."""


class EvaluateSettings(Settings):
    """Measure a trained model on held-out text, or on files.

    trainer evaluate runs/tales
    trainer evaluate runs/tales other.txt --json
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Text or .jsonl, also as gzip or zstd; by default the text that was held out."""
    data: Path | None = None
    """Where the prepared data is now, if it has moved since the training."""
    json_field: str = "text"
    """Where the text is in a line of a .jsonl file."""
    checkpoint: Checkpoint = "final"
    """Which weights: those of the end, or of a checkpoint: the latest, the best, or a step."""
    json_output: JsonFlag = False
    """Print one JSON object."""
    batch_size: AtLeastOne = 32
    """Sequences to score at a time."""
    device: str = "auto"
    """"auto" (CUDA, then MPS, then CPU), or a device by torch's name."""


class GenerateSettings(Settings):
    """Continue a text.

    trainer generate runs/tales --prompt "Once upon a time" --seed 1
    trainer generate runs/tales --prompt-file start.txt --samples 3 --json
    trainer generate runs/tales --interactive
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    prompt: str = ""
    """Text to continue, `-` for standard input; by default the start of a document."""
    prompt_file: Path | None = None
    """File with the text to continue, but for the line end that closes it."""
    interactive: Flag = False
    """Continue one line after another; an empty one ends, Ctrl-C stops a text."""
    max_new_tokens: Annotated[int, Field(ge=0)] = 200
    """Stop after so many tokens, if the document has not ended before."""
    samples: AtLeastOne = 1
    """How many continuations to write."""
    temperature: NotNegative = 0.8
    """0 always takes the likeliest token; 1 draws from the model as it is."""
    top_k: AtLeastOne | None = None
    """Draw only from this many likeliest tokens."""
    top_p: UpToOne = 0.95
    """Draw only from the likeliest tokens that together have this probability."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Draw only from tokens that are at least this probable, next to the likeliest."""
    stop: tuple[str, ...] = ()
    """Stop before any of these texts, besides the end of the document."""
    seed: Seed | None = None
    """The same seed draws the same texts; by default a new one, which --json tells."""
    stream: bool = True
    """Show text as it grows; otherwise when it is complete."""
    long_prompt: Literal["refuse", "crop"] = "refuse"
    """What to do with a prompt longer than the context: refuse it, or see only its end."""
    checkpoint: Checkpoint = "final"
    """Which weights: those of the end, or of a checkpoint: the latest, the best, or a step."""
    json_output: JsonFlag = False
    """Print one JSON object."""
    device: str = "auto"
    """"auto" (CUDA, then MPS, then CPU), or a device by torch's name."""


class SweepSettings(Settings):
    """Train once for each combination of settings, and compare.

    trainer sweep --out sweeps/lr --vary optimizer.lr=1e-3,3e-3 -- --data data/tales --steps 99
    trainer sweep --out sweeps/norm --case model.norm=pre --case "model.norm=none seed=1" -- ...

    What follows -- goes to every training. Done twice, it does what is missing.
    """

    out: Path
    """Directory of the sweep, a run for each combination in it."""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FLAG=VALUE,VALUE,...: a flag of train and its values. Given again, all combinations."""
    case: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FLAG=VALUE ...: settings of one training. Given again, each with all of --vary."""
    parallel: AtLeastOne = 1
    """Trainings at a time."""
    json_output: JsonFlag = False
    """Print one JSON object."""
    train: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The flags for every `trainer train`, those after `--`."""


class ReportSettings(Settings):
    """Write one page that shows and compares runs, readable without a network.

    trainer report runs/tales
    trainer report runs/a runs/b --out compared.html
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs, or directories with runs in them."""
    out: Path = Path("report.html")
    """The page to write."""


class RunsSettings(Settings):
    """List the runs in a directory, how far they are and how good.

    trainer runs
    trainer runs sweeps/lr --json
    """

    directory: tyro.conf.Positional[Path] = Path("runs")
    """Where to look, at any depth."""
    json_output: JsonFlag = False
    """Print one JSON object."""


class PlanSettings(Settings):
    """Tell what a training takes before it is begun: parameters, FLOPs, memory, time.

    trainer plan tinystories
    trainer plan small.toml --batch-size 64 --no-measure
    trainer plan gpt2
    """

    what: tyro.conf.Positional[str]
    """A TOML file of settings, a preset, a run, or `gpt2`: the table of GPT-2 small to XL."""
    vocab_size: AtLeastOne | None = None
    """Tokens of the vocabulary; by default that of the data, or of the preset."""
    batch_size: AtLeastOne | None = None
    """Sequences of each update, in place of what the settings say."""
    context_length: AtLeastOne | None = None
    """Tokens that the model sees at once, in place of what the settings say."""
    measure: bool = True
    """Take a few updates on random tokens to tell how long all of them take."""
    device: str = "auto"
    """"auto" (CUDA, then MPS, then CPU), or a device by torch's name."""
    json_output: JsonFlag = False
    """Print one JSON object."""


class ExportSettings(Settings):
    """Write a trained model in a form that others load.

    trainer export runs/tales --to hf --out export/tales
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    out: Path
    """Directory to write."""
    to: Literal["hf"] = "hf"
    """The form: "hf" for `transformers` and all that reads its files."""
    checkpoint: Checkpoint = "final"
    """Which weights: those of the end, or of a checkpoint: the latest, the best, or a step."""
    verify: bool = True
    """Load it with `transformers`, where that is installed, and compare the logits."""


class ImportSettings(Settings):
    """Make a run of a model that others wrote: to evaluate, generate, train further.

    trainer import llama-tiny --from hf --out runs/tiny
    """

    source: tyro.conf.Positional[Path]
    """Directory with config.json, safetensors and tokenizer.json."""
    out: Path
    """Directory of the run to write."""
    from_: Annotated[Literal["hf"], tyro.conf.arg(name="from")] = "hf"
    """The form that it is in."""


class PresetsSettings(Settings):
    """List the presets of `trainer train`, or show the settings of one.

    trainer presets
    trainer presets tinystories
    """

    name: tyro.conf.Positional[str] = ""
    """The preset to show."""


class QuickstartSettings(Settings):
    """Train a small model on Python's own sources, and compare it with gzip and xz.

    trainer quickstart
    """

    out: Path = Path("runs/quickstart")
    """Directory to write everything into."""
    train_seconds: Positive = 150.0
    """How long to train."""
    vocab_size: Annotated[int, Field(ge=257)] = 4096
    """Tokens of the vocabulary."""
    seed: Seed = 0
    """Of the initial weights, the order of the data and the samples."""
    device: str = "auto"
    """"auto" (CUDA, then MPS, then CPU), or a device by torch's name."""
