"""Studies: from one YAML file to many trainings, their evaluations and a report.

    concept      definition                                                          module
    spec         the YAML file of a study: sections, factors, exclusions, claims     spec
    section      options of one program: data, teacher, decode, evaluate, ...        sections
    factor       what is varied: a name and its values                               factors
    method       what a student learns from; the stages and options that it needs        methods, peers
    teachers     the teachers of a cell: variations of the section teacher, or local     teachers, parts
                 models of parts
    setting      what the value of a factor assigns: one option of a section, or     factors
                 one of the study's own: method, noise, seed, signal, ...
    exclusion    a pattern of factor values that removes cells                       exclusions
    part         the part of the training set that the student of a cell has         parts
    federated    rounds in which all parts train one model, and their start          federated_stages
    transfer set the sentences from which a student learns what its teachers know    transfer
    effect       whether a setting makes a difference in a cell                      effects
    cell         one combination of values: one student and its evaluations          cells
    claim        a statement about cells that the study tests: "A > B by METRIC"     claims
    stage        one command in a folder of its own, shared by cells                 stages, stage
                 stages of the data, local models, teachers, models that are chosen among several, students and cells:
                 data_stages, local_stages, teacher_stages, chosen_stages, mutual_stages, student_stages, cell_stages
    existing     a data-bin, teacher, cache or distilled data-bin given by its path  existing, existing_check
    question     what a new spec asks: its factors and claims (`study init`)         questions, new_spec
    consolidation  a study of models that exist and of one student of them all       consolidation,
                 (`fairseq-kd consolidate`)                                          consolidation_result
    kind         which command a stage is: prepare, teacher, student, evaluate, ...  maker
    maker        what makes a stage: our format and the versions of libraries        maker
    key          the name of a stage: KIND-REQUEST-MAKER                             key
    plan         the stages of all cells and claims, and the order between them      plan, architectures
    record       done.json of a stage: its command, seconds, versions, fingerprint   state
    state        of a stage or cell: done, running, failed, waiting                  state
    older stage  a finished stage that other versions of the software made           state
    results      results.json: the files with the scores of each cell and teacher    show
    estimate     the seconds that a stage takes, from records or a calibration       durations

In the order of a run: `check` opens a spec, plans it, and lets the program of each command parse it; `run` starts
Snakemake, which starts one process per stage (`stage`); `show` prints plan, progress and status; `report` writes the
page. `fairseq_kd.search` runs one such study for each batch of configurations.
"""

from fairseq_kd.core.public import lazily

_PLACES = {
    "format_plan": "show",
    "plan_study": "api",
    "write_spec": "api",
}
__all__, __getattr__, __dir__ = lazily(__name__, _PLACES)
