import pytest
from hypothesis import given
from hypothesis import strategies as st

from byzgym import specs


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("ipm", {"name": "ipm"}),
        ("ipm:epsilon=1.0", {"name": "ipm", "epsilon": 1.0}),
        ("gaussian: mean=-1, std=1e3", {"name": "gaussian", "mean": -1, "std": 1e3}),
        ("fixed:credits=[1,0, 2]", {"name": "fixed", "credits": [1, 0, 2]}),
        ("a:b=(1,'x,y'),c={'d': [2, 3]}", {"name": "a", "b": (1, "x,y"), "c": {"d": [2, 3]}}),
        ("csv:path=/a b/it's (1).csv,label=y", {"name": "csv", "path": "/a b/it's (1).csv", "label": "y"}),
        ("mnist:root='/a,b',download=True", {"name": "mnist", "root": "/a,b", "download": True}),
        (r"csv:path=C:\new\x.csv", {"name": "csv", "path": r"C:\new\x.csv"}),
        ("a:b=None,c=none,d='None',e=if", {"name": "a", "b": None, "c": "none", "d": "None", "e": "if"}),
        ("a:b=x=y,c=2020-01-02", {"name": "a", "b": "x=y", "c": "2020-01-02"}),
        ("model: runs/x/model.zip", {"name": "model", specs.BARE: "runs/x/model.zip"}),
        (r"model:C:\new\x.zip", {"name": "model", specs.BARE: r"C:\new\x.zip"}),
        ("model:a,b/c d=1,e=2.zip", {"name": "model", specs.BARE: "a,b/c d=1,e=2.zip"}),
        ("model:'lr=0.1/x.zip'", {"name": "model", specs.BARE: "lr=0.1/x.zip"}),
        ("ipm:1", {"name": "ipm", specs.BARE: 1}),
    ],
)
def test_names_with_parameters(text, spec):
    assert specs.parse(text) == spec
    assert specs.parse(specs.canonical(text)) == spec


BAD = ["", ":", "ipm:", ":a=1", ":a", "ipm:epsilon=", "a:b=,c=1", "a:b=1,", "a:b=1,c", "a:b=1,b=2"]
BAD += ["a:name=1", "a:b=[1,2", "a:b='x", "a:b=[c]", 1, None, ["a"]]


@pytest.mark.parametrize("text", BAD)
def test_other_forms(text):
    with pytest.raises(ValueError, match=r"expected 'name' or 'name:key=value,\.\.\.' with .*, got"):
        specs.parse(text)


def test_one_spelling():
    assert specs.canonical("gaussian: mean=-1, std=1e3") == "gaussian:mean=-1,std=1000.0"
    assert (
        specs.label({"name": "a", "b": "/x.csv", "c": "1", "d": " ", "e": ""})
        == "a:b=/x.csv,c='1',d=' ',e=''"
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True).filter(lambda key: key != "name")


@given(parameters=st.dictionaries(KEYS, VALUES | st.sampled_from([float("inf"), -float("inf")]), max_size=4))
def test_labels_are_read_back(parameters):
    spec = {"name": "any", **parameters}
    assert specs.parse(specs.label(spec)) == spec


@given(value=VALUES)
def test_labels_of_values_without_a_key_are_read_back(value):
    spec = {"name": "any", specs.BARE: value}
    assert specs.parse(specs.label(spec)) == spec
