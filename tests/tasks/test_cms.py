import math
import os

import pytest
import torch

from byzgym import tasks
from byzgym.simulation import Simulation
from byzgym.tasks import tables
from byzgym.tasks.cms import CONDITIONS

ROOT = os.environ.get(tables.ROOT_VARIABLE)
FIRST = {
    "DESYNPUF_ID": "00016F745862898F",
    "BENE_BIRTH_DT": 19430101,
    "BENE_DEATH_DT": "",
    "BENE_SEX_IDENT_CD": 1,
    "BENE_RACE_CD": 1,
    "BENE_ESRD_IND": 0,
    "SP_STATE_CODE": 39,
    "BENE_COUNTY_CD": 230,
    "BENE_HI_CVRAGE_TOT_MONS": 12,
    "BENE_SMI_CVRAGE_TOT_MONS": 12,
    "BENE_HMO_CVRAGE_TOT_MONS": 0,
    "PLAN_CVRG_MOS_NUM": "00",
    **dict.fromkeys(CONDITIONS, 2),
    **{f"{kind}_{part}": "0.00" for part in ("IP", "OP", "CAR") for kind in ("MEDREIMB", "BENRES", "PPPYMT")},
}
FEATURES = 30


def person(i, **changes):
    """A beneficiary of four: they differ in every kind of column."""
    varied = {
        "BENE_BIRTH_DT": 19400101 + 10_000 * (i % 4),
        "BENE_DEATH_DT": ("", "20080401")[i % 2],
        "BENE_SEX_IDENT_CD": 1 + i % 2,
        "BENE_RACE_CD": (1, 2, 3, 5)[i % 4],
        "BENE_ESRD_IND": ("0", "Y")[i % 2],
        "SP_STATE_CODE": 10 + i % 4,
        "SP_DIABETES": 1 + i % 2,
        "SP_CHF": 1 + i // 2 % 2,
        "MEDREIMB_CAR": f"{-100 * (i % 4)}.00",
    }
    return FIRST | varied | changes


@pytest.fixture
def write(tmp_path):
    def write(people, leave_out=()):
        (tmp_path / "cms").mkdir(exist_ok=True)
        names = [name for name in FIRST if name not in leave_out]
        lines = [",".join(names), *(",".join(str(one[name]) for name in names) for one in people)]
        (tmp_path / "cms" / "beneficiary_2008.csv").write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


def four_kinds(task):
    """The features [4, 30] and labels [4] of the four kinds of people, by year of birth."""
    rows = sorted({(*row, y) for row, y in zip(task.train[0].tolist(), task.train[1].tolist(), strict=True)})
    table = torch.tensor(rows)
    return table[:, :-1], table[:, -1]


def standardised(column, weights):
    mean = (column * weights).sum()
    std = ((column - mean) ** 2 * weights).sum().sqrt()
    return (column - mean) / std


def test_features_by_hand(write, untouched_randomness):
    task = tasks.make("cms", root=write([person(i) for i in range(80)]))
    assert [len(y) for _, y in (task.train, task.test, task.held_out)] == [54, 16, 10]
    assert (task.num_classes, task.input_shape) == (2, (FEATURES,))
    kinds = task.column("SP_STATE_CODE").bincount()[10:]  # how many training rows are of each kind
    weights = kinds / kinds.sum()
    x, y = four_kinds(task)
    assert y.tolist() == [1, 0, 1, 0]
    expected = {
        0: [0, 1, 2, 3],  # year of birth
        1: [0, 1, 0, 1],  # has died
        2: [0, 1, 0, 1],  # sex
        3: [0, 1, 0, 0],  # race 2, 3 and 5
        4: [0, 0, 1, 0],
        5: [0, 0, 0, 1],
        6: [0, 1, 0, 1],  # renal disease
        17: [0, -math.log(101), -math.log(201), -math.log(301)],
        21: [1, 1, 0, 0],  # heart failure
    }
    for place, values in expected.items():
        wanted = standardised(torch.tensor(values, dtype=torch.float64), weights.double())
        torch.testing.assert_close(x[:, place].double(), wanted, rtol=1e-5, atol=1e-5)
    same = [place for place in range(FEATURES) if place not in expected]
    assert x[:, same].abs().max() == 0


def test_another_condition(write):
    task = tasks.make("cms", root=write([person(i) for i in range(80)]), label="SP_CHF")
    x, y = four_kinds(task)
    assert y.tolist() == [1, 1, 0, 0]
    assert (x[:, 25] > 0).tolist() == [True, False, True, False]  # diabetes


def test_states_divide_the_workers(write):
    root = write([person(i) for i in range(80)])
    simulation = Simulation.make(
        2, 0, task=f"cms:root={root}", num_workers=4, partition="by_column:SP_STATE_CODE", attack="none"
    )
    states = simulation.setup.task.column("SP_STATE_CODE")
    held = states[simulation.workers.batches.shares]  # [E, n, m]
    assert (held == held[..., :1]).all()
    assert sorted(held[0, :, 0].tolist()) == [10, 11, 12, 13]
    assert held[0, :, 0].tolist() != held[1, :, 0].tolist()
    with pytest.raises(
        ValueError, match=r"partition: by_column:STATE: unknown column of the task 'STATE'; .*known"
    ):
        Simulation.make(task=f"cms:root={root}", partition="by_column:STATE")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SP_DIABETES": 0}, "column SP_DIABETES of .* must hold one of 1, 2, got 0 in row 81"),
        ({"SP_CHF": ""}, "column SP_CHF of .* must hold one of 1, 2, got nan in row 81"),
        ({"BENE_ESRD_IND": "N"}, "column BENE_ESRD_IND of .* must hold one of 0, Y, got 'N' in row 81"),
        ({"MEDREIMB_IP": "much"}, "column MEDREIMB_IP of .* must hold finite numbers, got 'much' in row 81"),
        ({"BENE_BIRTH_DT": ""}, "column BENE_BIRTH_DT of .* 18500101 to 20991231, got nan in row 81"),
        ({"SP_STATE_CODE": "NY"}, "column SP_STATE_CODE of .* integers from 1 to 99, got 'NY' in row 81"),
        ({"SP_STATE_CODE": 5.5}, "column SP_STATE_CODE of .* integers from 1 to 99, got 5.5 in row 81"),
        (
            {"BENE_DEATH_DT": "alive"},
            "column BENE_DEATH_DT of .* 18500101 to 20991231, got 'alive' in row 81",
        ),
        ({"BENE_BIRTH_DT": 5}, "column BENE_BIRTH_DT of .* 18500101 to 20991231, got 5 in row 81"),
    ],
)
def test_bad_values(write, changes, message):
    root = write([person(i) for i in range(80)] + [person(0, **changes)])
    with pytest.raises(ValueError, match=message):
        tasks.make("cms", root=root)


def test_other_bad_input(write, tmp_path, monkeypatch):
    monkeypatch.delenv(tables.ROOT_VARIABLE, raising=False)
    people = [person(i) for i in range(80)]
    with pytest.raises(ValueError, match=r"label must be one of 'SP_ALZHDMTA', .* got 'SP_STATE_CODE'"):
        tasks.make("cms", root=write(people), label="SP_STATE_CODE")
    with pytest.raises(ValueError, match=r"must have the columns .*; it lacks SP_CNCR, got"):
        tasks.make("cms", root=write(people, leave_out=["SP_CNCR"]))
    with pytest.raises(ValueError, match=r"too few rows for label='SP_COPD', \[80, 0\]"):
        tasks.make("cms", root=write(people), label="SP_COPD")
    with pytest.raises(FileNotFoundError, match="path: there is no file"):
        tasks.make("cms", path=tmp_path / "none.csv")
    with pytest.raises(ValueError, match="root must be the folder of the data, got None"):
        tasks.make("cms")


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason=f"{tables.ROOT_VARIABLE} is not set")
def test_the_beneficiaries_themselves():
    task = tasks.make("cms")
    assert len(task.test[1]) == 36_000
    assert len(task.column("SP_STATE_CODE").unique()) == 52
