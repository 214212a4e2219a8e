import pytest
from study_helpers import write_spec

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.cells import make_cells
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.spec import load_spec

ALL = ["ce", "word", "seq", "word+seq"]


def cells(tmp_path, **changes):
    return make_cells(load_spec(write_spec(tmp_path, **changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"techer": {}}, "unknown key 'techer' in the spec; the nearest valid one is 'teacher'"),
        ({"factors": None}, "the spec lacks 'factors'"),
        ({"factors": {"seed": [1]}}, "factors lacks 'method'"),
        ({"factors": {"method": []}}, "the factor method has no values"),
        ({"factors": {"method": ALL, "seed": None}}, "the factor seed has no values"),
        ({"factors": {"method": ["wrd"]}}, "the factor method has the value 'wrd'; the nearest valid one is 'word'"),
        ({"factors": {"method": ALL, "seed": [1, 1]}}, "the factor seed has a value twice"),
        ({"factors": {"method": ALL, "noise": [120]}}, "noise 120 in factors must be a percentage"),
        ({"factors": {"method": ALL, "decod.beam": [1]}}, "unknown section 'decod'; the nearest valid one is 'decode'"),
        ({"factors": {"method": ["ce"], "strategy": ["beam"]}}, "the factor strategy has no effect with method ce"),
        ({"factors": {"method": ["ce"]}}, "the section teacher has no effect on any cell"),
        ({"factors": {"method": ALL, "teacher-choice": ["low-loss"]}}, "teacher-choice needs a teacher with several"),
        ({"recipe": None}, "data lacks 'name'"),
        ({"recipe": "syntetic"}, "recipe syntetic cannot be read"),
        ({"data": {"name": "multi40k"}}, "data has the name 'multi40k'; it must be one of"),
        ({"data": {"name": "text"}}, "data lacks 'raw'"),
        ({"data": {"name": "text", "raw": "nowhere"}}, "nowhere is not a folder; give the folder with your raw files"),
        ({"budget": {"studnt": 3}}, "unknown key 'studnt' in budget; the nearest valid one is 'student'"),
        ({"student": {"max-update": 3}}, "max-update in student is set by the study; give it in budget"),
        ({"common": {"seed": 3}}, "seed in common is set by the study; give it as a factor"),
        ({"evaluate": {"noise": []}}, "noise in evaluate must be a list with one entry or more"),
        ({"common": {"max-tokns": 9}}, "unknown key 'max-tokns'; the nearest valid one is 'max-tokens'"),
        ({"student": {"arch": "kd_studnt_3m"}}, "--arch kd_studnt_3m: unknown; the nearest valid one is"),
        ({"decode": {"bem": 4}}, "unknown key 'bem' in decode; the nearest valid one is 'beam'"),
        ({"factors": {"method": ["seq"], "strategy": ["greedy"], "decode.beam": [4]}}, "--beam 4 has no effect"),
        ({"factors": {"method": ["word"], "divergence": ["mse"], "temperature": [2]}, "decode": None},
         "has no effect with --kd-divergence mse"),
        ({"factors": {"method": ["word"], "alpha": [3]}, "decode": None}, "--kd-weight 3.0: must be from 0"),
        ({"factors": {"method": ["ce"], 1: [2]}}, "the name of a factor must be a word, found 1"),
        ({"factors": {"method": ["ce"], True: [2]}}, "found True; YAML reads on, yes and no as true and false"),
        ({"factors": {"method": ALL, "a": {"x": {3: 4}, "y": {}}}}, "the name of a factor must be a word, found 3"),
        ({"factors": {"method": ALL, ".dropout": [0, 0.1]}}, "names the unknown section ''"),
        ({"factors": {"method": ALL, "max-update": [10, 20]}}, "the factor max-update has no effect: max-update in "
         "student is set by the study; vary budget.student"),
        ({"factors": {"method": ALL, "criterion": ["x", "y"]}}, "is set by the study; vary method"),
        ({"common": {"kd-weight": 0.5}}, "common: kd-weight has no effect on a training without a teacher; give"),
        ({"common": {"kd-divergence": "js"}}, "common: --kd-divergence js has no effect without --teacher"),
        ({"student": {"arch": "nonautoregressive_transformer"}}, "a NATransformerModel, which is non-autoreg"),
        ({"common": {"precision": "half"}}, "precision in common must be float32 or bfloat16, found 'half'"),
        ({"factors": {"method": ALL, "precision": ["bfloat"]}}, "the factor precision must be float32 or bfloat16"),
        ({"factors": {"method": ALL, "x": {"a": {"student.precision": 16}, "b": {}}}}, "bfloat16, found 16"),
        ({"kd": {"precision": "bfloat16"}}, "precision in kd is set by the study; give it in common, teacher or stud"),
        ({"common": {"autocast": "bfloat16"}}, "autocast in common is set by the study; give precision in common"),
        ({"factors": {"method": ALL, "autocast": ["none", "bfloat16"]}}, "set by the study; vary precision"),
        ({"factors": {"method": ALL, "common.seed": [1, 2]}}, "the factor common.seed has no effect"),
        ({"factors": {"method": ALL, "student.seed": [1, 2]}}, "set by the study; vary seed, or teacher.seed"),
        ({"factors": {"method": ALL, "data.raw": ["A", "B"]}}, "raw in data is the same for all cells"),
        ({"factors": {"method": ALL, "evaluate.subset": ["valid", "test"]}}, "subset in evaluate is set by the study"),
        ({"factors": {"method": ALL, "evaluate.subsets": ["valid", "test"]}}, "subsets in evaluate is the same for"),
        ({"factors": {"method": ALL, "evaluate.noise": [0, 10]}}, "noise in evaluate is the same for all cells"),
        ({"factors": {"method": ALL, "alpha": [0.3], "kd-weight": [0.5]}},
         "the factors alpha and kd-weight both set kd.kd-weight, so one would override the other"),
        ({"factors": {"method": ALL, "temperature": [1, 2], "teacher-temperature": [1]}}, "kd.teacher-temperature, so"),
        ({"factors": {"method": ["ce"], "system": {"A": {"method": "word"}, "B": {"method": "seq"}}}},
         "the factors method and system both set method"),
        ({"factors": {"method": ALL, "t": {"a": {"temperature": 2, "student-temperature": 1}}}}, "t sets twice"),
        ({"factors": {"method": ALL, "common.lr": [0.1, 0.2], "lr": [0.3], "teacher.lr": [0.1]}},
         "the cells method=ce,common.lr=0.1 and method=ce,common.lr=0.2 are the same experiment, because common.lr"),
        ({"factors": {"method": ALL, "noise": [10, 10.0]}}, "the factor noise has a value twice: 10, 10.0"),
        ({"factors": {"method": ALL, "noise.seed": [1, 2]}}, "the factor noise.seed has no effect with method"),
        ({"factors": {"method": ["ce", "seq"], "a": {"x": {"kd-weight": 1}, "y": {"dropout": 0.3}}}},
         "the value x of the factor a has no effect with method ce, seq"),
        ({"factors": {"method": ALL, "seed": [2**32]}}, "seeds are whole numbers from 0 to below 2^31"),
        ({"factors": {"method": ALL, "teacher.seed": [-1, 1]}}, "the factor teacher.seed has the value -1; seeds are"),
        ({"teacher": {"seed": 2**32}}, "seed in teacher has the value 4294967296"),
        ({"factors": {"method": ALL, "mix-gold": [-1, 1]}}, "mix-gold in factors must be a number from 0, found -1"),
        ({"factors": {"method": ALL, "noise": [10], "noise.delete": [-1]}}, "delete in noise is its share of"),
        ({"factors": {"method": ALL, "budget.student": [10, "x"]}}, "the factor budget.student must be a whole number"),
        ({"budget": {"teacher": "abc"}}, "teacher in budget must be a whole number of updates from 1, found 'abc'"),
        ({"budget": {"teacher": None}}, "must be a whole number of updates from 1, found None"),
        ({"budget": [3]}, "must be a whole number of updates from 1, found [3]"),
        ({"budget": float("inf")}, "must be a whole number of updates from 1, found inf"),
        ({"budget": "1e5"}, "must be a whole number of updates from 1, found '1e5'"),
        ({"budget": 0}, "must be a whole number of updates from 1, found 0"),
        ({"budget": {"student": -5}}, "must be a whole number of updates from 1, found -5"),
        ({"data": {"source-lang": False}}, "source-lang in data must be text, found False: put it in quotes"),
        ({"data": {"raw": 5}}, "raw in data must be text, found 5"),
        ({"recipe": ["a"]}, "recipe must be text, found ['a']"),
        ({"recipe": 5}, "recipe must be text, found 5"),
        ({"recipe": "synthetc"}, "there is no such file; the nearest known recipe is 'synthetic'"),
        ({"noise": {"delete": "a"}}, "delete in noise is its share of the level, a number from 0, found 'a'"),
        ({"noise": dict.fromkeys(("delete", "substitute", "swap"), 0)}, "in noise are all 0"),
        ({"noise": {"sentence-share": 3}, "evaluate": {"noise": [10]}}, "--sentence-share 3.0: must be between"),
        ({"evaluate": {"subsets": [["a"]]}}, "an entry of subsets in evaluate must be text, found ['a']"),
        ({"evaluate": {"subsets": [None]}}, "an entry of subsets in evaluate must be text, found None"),
        ({"evaluate": {"subsets": ["tset"]}}, "'tset', which the data lack; the nearest subset of the data is 'test'"),
        ({"evaluate": {"noise": [10, 10.0]}}, "noise in evaluate has an entry twice: 10, 10.0"),
        ({"student": {"finetune-from-model": "init.pt"}}, "finetune-from-model init.pt: /"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)  # fmt: skip
def test_a_wrong_spec_is_one_clear_error(tmp_path, changes, message):
    path = write_spec(tmp_path, **changes)
    with pytest.raises(KDError) as error:
        open_plan(path, tmp_path / "work")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("section", "given", "valid"),
    [
        ("data", "source_lang", "source-lang"),
        ("data", "vocab_size", "vocab-size"),
        ("cache", "top_k", "top-k"),
        ("decode", "nbst", "nbest"),
        ("select", "lenpn", "lenpen"),
        ("noise", "sentence_share", "sentence-share"),
        ("evaluate", "subset_s", "subsets"),
        ("evaluate", "latncy", "latency"),
    ],
)
@pytest.mark.parametrize("factor", [False, True])
def test_an_unknown_key_is_named_before_any_file_is_looked_for(tmp_path, section, given, valid, factor):
    """The folder has no files: an error about files of the default languages would blame the wrong thing."""
    data = {"name": "text", "raw": str(tmp_path), "source-lang": "qaa", "target-lang": "qab"}
    teacher = {"save-interval-updates": 2, "keep-interval-updates": 2}
    factors = {"method": ["word+seq"], "noise": [10], "teacher-choice": ["low-loss"]}
    changes = {"data": data, "teacher": teacher, "factors": factors}
    if factor:
        factors[f"{section}.{given}"] = [1, 2]
    else:
        changes[section] = changes.get(section, {}) | {given: 1}
    with pytest.raises(KDError) as error:
        open_plan(write_spec(tmp_path, **changes), tmp_path / "work")
    name = f"the factor {section}.{given}: " if factor else ""
    expected = f"mine.yaml: {name}unknown key {given!r} in {section}; the nearest valid one is {valid!r}"
    assert str(error.value).endswith(expected)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ([{"metod": "ce"}], "unknown key 'metod' in exclusion 1; the nearest valid one is 'method'"),
        ([{"method": "wrd"}], "exclusion 1: the factor method has no value 'wrd'; the nearest is 'word'"),
        ([{}], "exclusion 1 is empty"),
        ("method", "exclude must be a list of patterns, found str"),
        ([{"method": "*"}], "the exclusions remove all 6 cells"),
        ([{"method": "ce", "strategy": "beam"}], "exclusion 1 contradicts itself"),
        ([{"method": "seq", "strategy": "beam"}, {"method": "word*", "strategy": "beam"}],
         "together they leave no cell with strategy beam"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)  # fmt: skip
def test_wrong_exclusions_are_one_clear_error(tmp_path, exclude, message):
    with pytest.raises(KDError) as error:
        cells(tmp_path, factors={"method": ALL, "strategy": ["beam", "greedy"]}, exclude=exclude)
    assert message in str(error.value)


def test_a_key_that_stands_twice_is_one_clear_error(tmp_path):
    path = write_spec(tmp_path)
    path.write_text(f"{path.read_text()}\nstudent: {{dropout: 0.1}}\n")
    with pytest.raises(KDError, match=r"mine.yaml cannot be read: line \d+ gives 'student' again"):
        load_spec(path)
    path.write_text("factors: {method: [ce]}\nteacher: &x {lr: 1}\nstudent: {<<: *x, lr: 2}\nrecipe: synthetic\n")
    assert load_spec(path).sections["student"]["lr"] == 2  # what a merge key brings may be overridden
    path.write_text("")
    with pytest.raises(KDError, match="the spec must be a mapping, found nothing"):
        load_spec(path)


@pytest.mark.parametrize("text", ["exclude: &x [*x]", "exclude: [&x {method: *x}]", "exclude: [{method: &x [*x]}]"])
def test_exclusions_that_contain_themselves_are_refused(tmp_path, text):
    path = write_spec(tmp_path, exclude=None)
    path.write_text(f"{path.read_text()}\n{text}\n")
    with pytest.raises(KDError, match="exclusion 1"):
        make_cells(load_spec(path))


def test_a_factor_without_effect_on_a_cell_does_not_multiply_it(tmp_path):
    found = cells(tmp_path, factors={"method": ALL, "strategy": ["beam", "greedy"], "temperature": [1, 2]})
    assert [cell.factors for cell in found.cells if cell.factors["method"] == "ce"] == [{"method": "ce"}]
    counts = {method: sum(cell.factors["method"] == method for cell in found.cells) for method in ALL}
    assert counts == {"ce": 1, "word": 2, "seq": 2, "word+seq": 4}
    assert (found.excluded, found.repeated) == (0, 16 - 9)


def test_an_exclusion_takes_out_what_agrees_in_all_its_factors(tmp_path):
    factors = {"method": ALL, "noise": [0, 10, 30], "seed": [1, 2]}
    found = cells(tmp_path, factors=factors, exclude=[{"method": "*seq", "noise": [10, 30], "seed": 2}])
    assert len(found.cells) == 4 * 3 * 2 - 2 * 2 and found.excluded == 4
    assert not any(
        c.factors["noise"] == 30 and "seq" in c.factors["method"] and c.factors["seed"] == 2 for c in found.cells
    )


def test_labelled_values_set_several_options_at_once(tmp_path):
    labelled = {"beam of 3": {"strategy": "beam", "decode.beam": 3}, "greedy": {"strategy": "greedy"}}
    found = cells(tmp_path, factors={"method": ["ce", "seq"], "decoding": labelled})
    assert [cell.name for cell in found.cells] == [
        "method=ce",
        "method=seq,decoding=beam_of_3",
        "method=seq,decoding=greedy",
    ]
    assert found.cells[1].settings["decode"]["beam"] == 3 and "beam" not in found.cells[2].settings["decode"]


def test_the_values_of_a_factor_reach_the_option_that_they_are_for(tmp_path):
    factors = {"method": ["word"], "temperature": [2], "alpha": [0.3], "lr": [0.1], "teacher.dropout": [0.4]}
    (cell,) = cells(tmp_path, factors=factors, decode=None).cells
    assert cell.settings["kd"] == {"kd-weight": 0.3, "teacher-temperature": 2, "student-temperature": 2}
    assert cell.settings["student"]["lr"] == 0.1 and cell.settings["teacher"]["dropout"] == 0.4


def test_a_label_without_options_is_the_baseline_of_its_factor(tmp_path):
    factors = {"method": ["ce", "seq"], "decoding": {"default": {}, "greedy": {"strategy": "greedy"}}}
    assert [cell.name for cell in cells(tmp_path, factors=factors).cells] == [
        *("method=ce", "method=seq,decoding=default", "method=seq,decoding=greedy")
    ]


def test_options_of_noise_do_not_multiply_cells_without_noise(tmp_path):
    found = cells(tmp_path, factors={"method": ["ce", "seq"], "noise": [0, 10], "noise.seed": [1, 2]})
    assert [cell.name for cell in found.cells if cell.factors["method"] == "ce"] == [
        *("method=ce,noise=0", "method=ce,noise=10,noise.seed=1", "method=ce,noise=10,noise.seed=2")
    ]


def test_every_cell_has_a_name_of_its_own_that_can_be_a_folder(tmp_path):
    labelled = {label: {"dropout": n / 10} for n, label in enumerate(("a b", "a/b", "c", "é" * 200, "é" * 201))}
    names = [cell.name for cell in cells(tmp_path, factors={"method": ["ce", "seq"], "size": labelled}).cells]
    assert len(set(names)) == 10 and all(len(name.encode()) < 250 and "/" not in name for name in names)
    assert "method=ce,size=c" in names and "method=ce,size=a_b" not in names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "nothing"], "there is no spec nothing"),
        (["run", "smoke", "--jobs", "0"], "--jobs 0: must be at least 1"),
        (["plan", "smoke", "--dry-run"], "--dry-run: no effect with study plan, only with study run"),
        (["status", "smoke", "--jobz", "2"], "--jobz 2: neither study run nor Snakemake has this option"),
        (["report", "smoke", "--cpu", "everything"], "everything: neither study run nor Snakemake has this option"),
        (["status", "smoke", "--executor", "slrm"], "argument --executor/-e: invalid choice: 'slrm'"),
        (["plan", "smoke", "--executor", "slurm"], "--executor slurm: no effect with study plan"),
        (["run", "smoke", "--calibrate"], "--calibrate has no effect with study run"),
        (["plan", "smoke", "--raw", "x"], "raw has no effect with the synthetic corpus"),
    ],
)
def test_bad_options_are_one_error(tmp_path, words, message, capsys):
    assert main(["study", *words, "--out", str(tmp_path / "work")]) == 2
    assert message in capsys.readouterr().err


def test_the_line_of_a_run_shows_the_status_and_names_what_has_no_effect(tmp_path, capsys):
    words = ["smoke", "--out", str(tmp_path / "work"), "--jobs", "2", "--threads", "3", "--cpu", "--dry-run"]
    words += ["--old-stages", "reuse", "--keep-going", "--latency-wait", "9", "--rerun-incomplete"]
    assert main(["study", "status", *words]) == 0
    said = capsys.readouterr()
    assert said.err == (
        "--jobs --cpu --dry-run --old-stages --threads --keep-going --latency-wait 9 --rerun-incomplete: "
        "no effect with study status, only with study run\n"
    )
    assert main(["study", "status", *words[:3]]) == 0 and capsys.readouterr().out == said.out
    assert main(["study", "report", *words]) == 2  # for another reason
    assert "holds no study yet" in capsys.readouterr().err and not (tmp_path / "work").exists()


def test_a_folder_that_is_not_a_study_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert main(["study", "run", "smoke", "--out", str(tmp_path)]) == 2
    assert "is not the folder of a study" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_study_that_was_killed_before_it_wrote_its_plan_is_continued(tmp_path):
    for name in (".study.lock", ".plan.json.abc", ".writable-abc"):
        (tmp_path / name).touch()
    assert open_plan("smoke", tmp_path).cells
