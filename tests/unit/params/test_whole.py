from pathlib import Path
from typing import Any

import pytest
import yaml

from distillery.errors import ParamsError
from distillery.params.objective import ObjectiveParams
from distillery.params.whole import Params
from tests.tiny import tiny_params, write_params

ROOT = Path(__file__).resolve().parents[3]


def problems(tmp_path: Path, change: dict[str, Any]) -> str:
    """Return the message for the tiny settings with some values replaced by dotted path."""
    settings = tiny_params()
    for path, value in change.items():
        target = settings
        *parents, last = path.split(".")
        for name in parents:
            target = target.setdefault(name, {})
        target[last] = value
    write_params(tmp_path, settings)
    with pytest.raises(ParamsError) as caught:
        Params.load(tmp_path / "params.yaml")
    return str(caught.value)


def test_the_shipped_settings_load() -> None:
    assert Params.load(ROOT / "params.yaml").prepare.corpus == "commands"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_examples_load(path: Path) -> None:
    if "prepare" in yaml.safe_load(path.read_text()):
        assert Params.load(path).distill.students


def test_all_problems_come_at_once_with_their_paths(tmp_path: Path) -> None:
    message = problems(
        tmp_path,
        {
            "distill.training.learning_rte": 0.1,
            "teacher.training.num_epochs": 0,
            "prepare.valid_fraction": 1.5,
            "cache.payload.log_probs": "u4",
        },
    )
    assert "4 setting(s) cannot be used" in message
    assert (
        "distill.training.learning_rte: unknown setting; did you mean 'learning_rate'?" in message
    )
    assert "teacher.training.num_epochs: Input should be greater than 0 (found 0)" in message
    assert "prepare.valid_fraction: Input should be less than or equal to 1 (found 1.5)" in message
    assert "cache.payload.log_probs: Input should be 'auto', 'u8', 'f16'" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prepare.corpus": "an5"}, "prepare.corpus: Input should be 'commands'"),
        (
            {"distill.students": {}},
            "distill.students: Dictionary should have at least 1 item",
        ),
        ({"distill.students.Bad Name": {}}, "distill.students.Bad Name"),
        ({"distill.seeds": []}, "distill.seeds: Tuple should have at least 1 item"),
        ({"distill.seeds": [1, 0, 1]}, "distill: seeds [1, 0, 1] hold one twice; name each once"),
        ({"distill.seeds": [-1]}, "distill.seeds.0: Input should be greater than or equal to 0"),
        ({"distill.seeds": ["a"]}, "distill.seeds.0: Input should be a valid integer"),
        ({"distill.seeds": [True]}, "distill.seeds.0: Input should be a valid integer"),
        (
            {"distill.training.seed": 3},
            "distill: training.seed is 3, but students take their seeds from distill.seeds; remove "
            "it and set seeds to [3]",
        ),
        ({"distill.objective.frame.temperature": float("nan")}, "frame.temperature"),
        ({"distill.objective.frame.temperature": -1}, "frame.temperature"),
        (
            {
                "distill.objective.frame.weight": 0,
                "distill.objective.sequence.weight": 0,
            },
            "distill.objective: teacher_share is above 0 but frame.weight and sequence.weight",
        ),
        (
            {"distill.objective.teacher_share": {"start": 0.0, "end": 1.5}},
            "distill.objective: teacher_share reaches 1.5, expected 0 to 1",
        ),
        (
            {"distill.objective.teacher_share": {"start": 0.0, "end": 1.0, "fom": 0.5}},
            "distill.objective.teacher_share.fom: unknown setting",
        ),
        (
            {"distill.objective.frame.weight": {"start": 1, "end": 0, "from": 0.6, "until": 0.4}},
            "distill.objective.frame.weight: from 0.6 is not below until 0.4",
        ),
        (
            {
                "distill.training": {"num_epochs": "auto"},
                "distill.objective.teacher_share": {"start": 1.0, "end": 0.5},
            },
            "distill: objective.teacher_share changes with the share of all steps taken, which is "
            "unknown while training.num_epochs is auto: set num_epochs to a number, or "
            "teacher_share to one",
        ),
        (
            {
                "distill.training": {},
                "distill.students.conv.objective": {
                    "frame": {"weight": {"start": 1, "end": 0}},
                },
            },
            "distill: students.conv.objective.frame.weight changes with the share of all steps",
        ),
        (
            {"distill.training.max_epochs": 50},
            "distill.training: num_epochs is 3, so max_epochs would not be read; remove it, or set "
            "num_epochs to auto",
        ),
        (
            {"teacher.training": {"warmup_fraction": 0.2}},
            "teacher.training: num_epochs is auto, so warmup_fraction would not be read; remove "
            "it, or set num_epochs to a number",
        ),
        ({"distill.training.num_epochs": "many"}, "distill.training.num_epochs: Input should be"),
        (
            {"distill.objective.frame.weight": "much"},
            "distill.objective.frame.weight: Input should be a valid number",
        ),
        (
            {"distill.objective.sequence.temperature": 2.0},
            "distill.objective.sequence: temperature is 2, but one hypothesis has no scores to",
        ),
        (
            {"distill.objective.sequence.num_hypotheses": 4},
            "distill.students.conv: learns from 4 hypotheses, the cache keeps 1; set "
            "cache.payload.num_hypotheses to 4 or more",
        ),
        (
            {"distill.objective.hidden.weight": 2.0},
            "distill.objective.hidden: weight is set, but layers names none; name some, or remove",
        ),
        (
            {"distill.objective.intermediate.weight": 0.5},
            "distill.objective.intermediate: weight is set, but layers names none",
        ),
        (
            {"distill.objective.intermediate.layers": ["front", "front"]},
            "distill.objective.intermediate: layers names 'front' more than once",
        ),
        (
            {
                "cache.payload.hidden_layers": ["project"],
                "distill.objective.hidden.layers": {"front": "recurrent.0"},
            },
            "distill.students.conv: learns hidden layer 'recurrent.0' of the teacher, which the "
            "cache does not keep; set cache.payload.hidden_layers to auto or [project, recurrent.",
        ),
        (
            {"cache.payload.hidden_layers": "last"},
            "cache.payload.hidden_layers: Input should be 'auto'",
        ),
        (
            {
                "distill.objective": {
                    "teacher_share": 1,
                    "frame": {"weight": 0},
                    "sequence": {"weight": 0},
                    "hidden": {"layers": {"front": "recurrent.0"}},
                },
            },
            "distill.objective: teacher_share is 1 and hidden states alone count, which teach the "
            "output layer nothing",
        ),
        ({"distill.objective.frame.blank_threshold": 0}, "frame.blank_threshold: Input should be"),
        ({"distill.objective.frame.delay_frames": -1}, "frame.delay_frames: Input should be"),
        (
            {"distill.objective.frame": {"type": "logit_mse", "temperature": 3}},
            "distill.objective.frame: temperature is 3, but only type 'kl' reads it, and type is "
            "'logit_mse'; remove one of the two",
        ),
        (
            {"distill.objective.frame": {"blank_mode": "trim", "dilation": 2}},
            "distill.objective.frame: dilation is 2, but only blank_mode 'symmetric' reads it",
        ),
        (
            {"distill.objective.frame.blank_threshold": 0.5},
            "distill.objective.frame: blank_threshold is 0.5, but only blank_mode 'threshold'",
        ),
        (
            {
                "teacher.architecture": {
                    "type": "conformer",
                    "model_size": 30,
                    "num_heads": 4,
                }
            },
            "teacher.architecture: model_size 30 is not a multiple of num_heads 4",
        ),
        (
            {"teacher.architecture": {"type": "conformer", "kernel_size": 4}},
            "teacher.architecture: kernel_size 4 is even; an odd one is needed",
        ),
        (
            {"distill.students.conv.architecture.kernel_size": 4},
            "distill.students.conv.architecture: kernel_size 4 is even",
        ),
        ({"teacher.architecture.type": "transformer"}, "teacher.architecture"),
        (
            {"teacher.kind": "magic"},
            "teacher: kind should be 'endpoint', 'faster_whisper', ",
        ),
        (
            {"teacher": {"kind": "texts", "file": "a.jsonl"}},
            "distill.students.conv: learns by frame, but a teacher of kind texts gives texts "
            "alone; set frame.weight to 0",
        ),
        ({"teacher": {"kind": "registry"}}, "teacher.model: missing, and has no default"),
        (
            {"teacher": {"kind": "registry", "model": "models:/tiny/0"}},
            "teacher.model: String should match pattern",
        ),
        (
            {"teacher": {"kind": "registry", "model": "models:/tiny/1", "speed_factors": []}},
            "teacher.speed_factors: unknown setting",
        ),
        (
            {"distill.features": {"type": "kaldi_fbank", "num_mels": 128}},
            "distill.features: 6 of 128 mel bands of kaldi_fbank would be empty at 8000 Hz, which "
            "sherpa-onnx refuses; expected num_mels up to 90",
        ),
        (
            {"teacher.features": {"type": "kaldi_fbank", "num_mels": 128}},
            "teacher.features: 6 of 128 mel bands of kaldi_fbank would be empty at 8000 Hz",
        ),
        ({"distill.students.conv.init": "models:/tiny"}, "students.conv.init: String should match"),
        ({"distill.students.conv.init": "teachers"}, "students.conv.init: String should match"),
        ({"distill.generations": 0}, "distill.generations: Input should be greater than 0"),
        (
            {"distill.generations": 2, "distill.objective": {"teacher_share": 0.0}},
            "distill: generations is 2, but no student learns from a teacher: every teacher_share",
        ),
        (
            {"distill.students.conv.architecture": {"type": "causal_conv"}},
            "distill: students.conv: causal_conv streams, but features.normalise is 'bands', which",
        ),
        (
            {
                "distill.students.conv.architecture": {
                    "type": "causal_conv",
                    "num_blocks": 2,
                    "kernel_size": 5,
                    "lookahead_frames": 5,
                }
            },
            "architecture: lookahead_frames 5 is more than 2 blocks with kernels of 5 can see, 4",
        ),
        (
            {"evaluate.stream_chunk_seconds": 0.5},
            "evaluate.stream_chunk_seconds is 0.5, but no student streams; remove it",
        ),
        ({"distill.students.conv.init": "zeros"}, "distill.students.conv.init: String should"),
        ({"distill.students.conv.init": "teachers"}, "distill.students.conv.init: String should"),
        ({"distill.students.conv.init": "models:/"}, "distill.students.conv.init: String should"),
        (
            {"distill.students.conv.init": "teacher"},
            "distill.students.conv: init is 'teacher', but the student is a separable_conv and the "
            "teacher a conv_bilstm",
        ),
        (
            {
                "distill.students.conv": {
                    "architecture": {"type": "conv_bilstm"},
                    "features": {"num_mels": 12},
                    "init": "teacher",
                }
            },
            "distill.students.conv: init is 'teacher', but the student's features differ from",
        ),
        (
            {
                "distill.students.conv.features": {"num_mels": 16, "hop_seconds": 0.015},
            },
            "distill.students.conv: one frame per 60 ms is no whole multiple of the teacher's 40",
        ),
        (
            {"distill.students.conv.architecture.time_reduction": 2},
            "distill.students.conv: one frame per 20 ms is no whole multiple of the teacher's 40",
        ),
    ],
)
def test_values_out_of_range_are_named(tmp_path: Path, change, message: str) -> None:
    assert message in problems(tmp_path, change)


def test_a_student_at_another_rate_is_fine_without_frame_losses(tmp_path: Path) -> None:
    settings = tiny_params()
    settings["distill"]["students"]["conv"]["architecture"]["time_reduction"] = 2
    settings["distill"]["objective"] = {"frame": {"weight": 0.0}}
    write_params(tmp_path, settings)
    assert Params.load(tmp_path / "params.yaml")


def test_settings_in_another_encoding_are_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("prepare: {corpus: né}\n".encode("latin-1"))
    with pytest.raises(ParamsError, match=r"params\.yaml: cannot be read.*save it again as UTF-8"):
        Params.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; copy one from examples/"),
        ("- 1\n", "holds list, expected sections"),
        ("a: [", "not valid YAML"),
        ("prepare: {corpus: an4, source: x}\n", "distill: missing, and has no default"),
    ],
)
def test_a_file_that_is_no_settings_is_an_error(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ParamsError, match=message):
        Params.load(path)


def test_settings_cannot_be_changed_after_loading(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params())
    loaded = Params.load(tmp_path / "params.yaml")
    with pytest.raises(Exception, match="frozen"):
        loaded.prepare.download = True  # type: ignore[misc]


def test_layers_of_all_students_are_those_that_count(tmp_path: Path) -> None:
    settings = tiny_params()
    conv = settings["distill"]["students"]["conv"]
    own = {
        "none": {"layers": {"front": "project"}, "weight": 0},
        "both": {"layers": {"front": "recurrent.0", "last": "last"}},
        "one": {"layers": {"last": "last"}},
    }
    for name, hidden in own.items():
        settings["distill"]["students"][name] = {**conv, "objective": {"hidden": hidden}}
    write_params(tmp_path, settings)
    loaded = Params.load(tmp_path / "params.yaml")
    assert loaded.cache.payload.hidden_layers == "auto"
    assert loaded.distill.teacher_layers == ("last", "recurrent.0")


def test_hidden_states_alone_need_a_whole_ratio_of_rates(tmp_path: Path) -> None:
    settings = tiny_params(cache={"payload": {"hidden_layers": ["recurrent.0"]}})
    settings["distill"]["students"]["conv"]["architecture"]["time_reduction"] = 2
    settings["distill"]["objective"] = {
        "frame": {"weight": 0.0},
        "hidden": {"layers": {"front": "recurrent.0"}},
    }
    write_params(tmp_path, settings)
    with pytest.raises(ParamsError, match="20 ms is no whole multiple of the teacher's 40"):
        Params.load(tmp_path / "params.yaml")


def objective(**settings: Any) -> ObjectiveParams:
    return ObjectiveParams.model_validate(settings)


def test_a_schedule_counts_as_what_it_reaches() -> None:
    rising = objective(teacher_share={"start": 0, "end": 1}, frame={"weight": 0})
    assert rising.uses_teacher
    assert rising.uses_transcripts
    assert rising.uses_sequence
    assert not rising.uses_frames
    fading = objective(frame={"weight": {"start": 1, "end": 0}}, sequence={"weight": 0})
    assert fading.uses_frames
    always = objective(teacher_share={"start": 1, "end": 1})
    assert not always.uses_transcripts
    never = objective(teacher_share={"start": 0, "end": 0}, intermediate={"layers": ["front"]})
    assert never.uses_heads
    assert not (never.uses_teacher or never.uses_frames or never.uses_sequence)


def test_settings_that_were_dumped_load_again() -> None:
    """What fills in the defaults must not be taken for settings that nobody reads."""
    one = objective(teacher_share={"start": 0, "end": 0.5, "from": 0.1})
    assert objective(**one.model_dump()) == one


def test_a_students_own_objective_comes_first(tmp_path: Path) -> None:
    settings = tiny_params()
    settings["distill"]["students"]["other"] = {
        **settings["distill"]["students"]["conv"],
        "objective": {"teacher_share": 0.0},
    }
    write_params(tmp_path, settings)
    distill = Params.load(tmp_path / "params.yaml").distill
    assert distill.objective_of("other").teacher_share == 0.0
    assert distill.objective_of("conv") == distill.objective


def test_the_settings_of_one_seed_tell_nothing_of_the_others(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params(distill={"seeds": [4, 2]}))
    distill = Params.load(tmp_path / "params.yaml").distill
    alone = distill.for_seed(2)
    assert (alone.seeds, alone.training.seed) == ((2,), 2)
    assert alone == distill.model_copy(update={"seeds": (9, 2)}).for_seed(2)
    assert distill.seeds == (4, 2)


def test_a_students_own_features_come_first(tmp_path: Path) -> None:
    settings = tiny_params(evaluate={"stream_chunk_seconds": 0.5})
    settings["distill"]["students"]["stream"] = {
        "architecture": {"type": "causal_conv"},
        "features": {"num_mels": 24, "normalise": "running"},
        "init": "models:/tiny@champion",
    }
    write_params(tmp_path, settings)
    distill = Params.load(tmp_path / "params.yaml").distill
    assert distill.features_of("stream").num_mels == 24
    assert distill.features_of("conv") == distill.features


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ({"students": ["conv", "nobody"]}, "curve.students: 'nobody' is no student, expected some"),
        ({"students": ["conv", "conv"]}, r"curve: students \['conv', 'conv'\] hold one twice"),
        ({"students": []}, "curve.students"),
        ({"fractions": [0.5, 0.5]}, r"curve: fractions \[0.5, 0.5\] hold one twice"),
        ({"fractions": [0.0]}, r"curve.fractions.0: .*greater than 0 \(found 0.0\)"),
        ({"fractions": [0.1, 1.5]}, r"curve.fractions.1: .*less than or equal to 1 \(found 1.5\)"),
        ({"fractions": []}, "curve.fractions"),
    ],
)
def test_curves_that_cannot_be_drawn_are_named(
    curve: dict[str, object], words: str, tmp_path: Path
) -> None:
    write_params(tmp_path, tiny_params() | {"curve": curve})
    with pytest.raises(ParamsError, match=words):
        Params.load(tmp_path / "params.yaml")


def test_curves_are_of_all_students_unless_some_are_named(tmp_path: Path) -> None:
    settings = tiny_params()
    settings["distill"]["students"]["other"] = settings["distill"]["students"]["conv"]
    write_params(tmp_path, settings)
    loaded = Params.load(tmp_path / "params.yaml")
    assert loaded.curve_students == ["conv", "other"]
    assert loaded.curve.fractions == (0.1, 0.25, 0.5, 1.0)
    write_params(tmp_path, settings | {"curve": {"students": ["other"]}})
    assert Params.load(tmp_path / "params.yaml").curve_students == ["other"]


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        (
            {"teachers": {"teacher": {"kind": "trained"}}},
            "'teacher' is what the configured teacher",
        ),
        ({"teachers": {"a": {"kind": "nobody"}}}, "teacher_candidates.teachers.a.* kind should be"),
        ({"teachers": {"A b": {"kind": "trained"}}}, "teacher_candidates.teachers.A b"),
        (
            {"pilot": {"student": "nobody"}},
            "pilot.student: 'nobody' is no student, expected one of",
        ),
        ({"pilot": {"fraction": 0.0}}, "pilot.fraction: .*greater than 0"),
        (
            {"pilot": {"num_epoch": 3}},
            "pilot.num_epoch: unknown setting; did you mean 'num_epochs'",
        ),
    ],
)
def test_candidates_that_cannot_be_compared_are_named(
    candidates: dict[str, object], words: str, tmp_path: Path
) -> None:
    write_params(tmp_path, tiny_params() | {"teacher_candidates": candidates})
    with pytest.raises(ParamsError, match=words):
        Params.load(tmp_path / "params.yaml")


def test_a_pilot_that_ignores_its_teacher_ranks_none(tmp_path: Path) -> None:
    settings = tiny_params(distill={"objective": {"teacher_share": 0.0}})
    settings["teacher_candidates"] = {"teachers": {"a": {"kind": "trained"}}}
    write_params(tmp_path, settings)
    with pytest.raises(ParamsError, match="'conv' ignores its teacher"):
        Params.load(tmp_path / "params.yaml")


def test_the_configured_teacher_is_a_candidate_once(tmp_path: Path) -> None:
    settings = tiny_params()
    other = {"kind": "trained", "architecture": {"type": "conformer"}}
    settings["teacher_candidates"] = {"teachers": {"other": other}}
    write_params(tmp_path, settings)
    loaded = Params.load(tmp_path / "params.yaml")
    assert list(loaded.all_candidates) == ["teacher", "other"]
    same = {**settings["teacher"], "allow_poor": False}  # which makes no other teacher
    settings["teacher_candidates"]["teachers"]["same"] = same
    write_params(tmp_path, settings)
    loaded = Params.load(tmp_path / "params.yaml")
    assert list(loaded.all_candidates) == ["other", "same"]
    assert [loaded.is_configured(item) for item in loaded.all_candidates.values()] == [False, True]
    assert loaded.pilot_student == "conv"


@pytest.mark.parametrize("comment", ["", "# "])
def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path, comment: str) -> None:
    path = tmp_path / "params.yaml"
    uri = "postgresql://mlflow:hunter2@db/mlflow"
    for rest in ("", "broken: [", "misspelt: 3"):
        path.write_text(f"register:\n  {comment}tracking_uri: {uri}\n{rest}\n")
        with pytest.raises(
            ParamsError, match=r"line 2: a URL holds .*MLFLOW_TRACKING_PASS"
        ) as told:
            Params.load(path)
        assert "hunter2" not in str(told.value)


# --- one language --------------------------------------------------------------------------------


WHISPER = {"kind": "faster_whisper", "model": "base"}
SERVICE = {"kind": "endpoint", "url": "https://x.example", "model": "w"}


def in_languages(tmp_path: Path, prepare: dict[str, Any], teacher: dict[str, Any]) -> Params:
    settings = tiny_params(prepare=prepare)
    settings["teacher"] = teacher
    objective = {"teacher_share": 1.0, "frame": {"weight": 0.0}, "sequence": {"weight": 1.0}}
    settings["distill"] |= {"control": "auto", "objective": objective}
    write_params(tmp_path, settings)
    return Params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("prepare", "teacher"),
    [
        ({}, {**WHISPER, "language": "nl"}),
        ({"language": "nl"}, WHISPER),
        ({"language": "nl"}, {**WHISPER, "language": "nl"}),
        ({"language": "pt", "spelling": {"language": "pt_BR"}}, {**WHISPER, "language": "pt"}),
        ({"language": "en"}, {**WHISPER, "language": "nl", "task": "translate"}),
        ({"spelling": {"language": "en", "numbers": "keep"}}, {**WHISPER, "language": "nl"}),
        ({"language": "nl"}, {**SERVICE, "language": "dutch"}),
    ],
)
def test_languages_that_fit_are_fine(
    tmp_path: Path, prepare: dict[str, Any], teacher: dict[str, Any]
) -> None:
    in_languages(tmp_path, prepare, teacher)


@pytest.mark.parametrize(
    ("prepare", "teacher", "words"),
    [
        (
            {"language": "nl"},
            {**WHISPER, "language": "en"},
            "teacher.language is 'en', but",
        ),
        ({"language": "nl"}, {**WHISPER, "task": "translate"}, "teacher.task is translate, which"),
        (
            {"spelling": {"language": "nl"}},
            {**WHISPER, "language": "en"},
            "but prepare.spelling.language is 'nl'",
        ),
        (
            {"language": "nl"},
            {"kind": "transformers", "model": "x", "whisper": {"language": "de"}},
            "teacher.whisper.language is 'de', but prepare.language is 'nl'",
        ),
        ({"language": "nl"}, {**SERVICE, "language": "en"}, "teacher.language is 'en'"),
        (
            {"language": "nl"},
            {"kind": "ensemble", "members": [WHISPER, {**WHISPER, "language": "fr"}]},
            "teacher.members.1.language is 'fr'",
        ),
        (
            {"language": "nl", "spelling": {"language": "en"}},
            WHISPER,
            "language is 'nl', but spelling.language is 'en'",
        ),
    ],
)
def test_languages_that_contradict_each_other_are_named(
    tmp_path: Path, prepare: dict[str, Any], teacher: dict[str, Any], words: str
) -> None:
    with pytest.raises(ParamsError, match=words):
        in_languages(tmp_path, prepare, teacher)
