"""The statistics of steps: against NumPy, however a step is made, and without effect on it."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_rmsprop
from keras_rmsprop import Diagnostics, RMSprop, conventions, transforms
from keras_rmsprop._diagnostics._report import Statistics
from keras_rmsprop._math import _rows
from keras_rmsprop._math._statistics import EDGES
from tests.tools import numpy_statistics as oracle
from tests.tools.models import WithPath

# 1-d, odd, a scalar, and of two dimensions; or larger than the pieces in which sums are made.
SMALL = {"kernel": (7, 5), "bias": (5,), "scale": (), "table": (33, 65)}
LARGE = SMALL | {"table": (3 * _rows.PIECE // 64 + 1, 65)}
IN_PIECES = ("all", "groups")
# ... and in a loop of their own.
ON_THEIR_OWN = ("groups", "centered")

CASES = {
    "plain": {},
    "epsilon outside": {"epsilon_inside_sqrt": False, "epsilon": 1e-3},
    "large epsilon": {"epsilon": 0.5},
    "centered": {"centered": True},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "unscaled momentum": {"momentum": 0.9, "lr_in_momentum": False},
    "bias correction": {"bias_correction": True},
    "initial": {"initial_square_average": 1.0},
    "penalty": {"l2": 0.1},
    "decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True},
    "value": {"clipvalue": 0.5},
    "norm": {"clipnorm": 3.0},
    "global norm": {"global_clipnorm": 2.0},
    "scaled": {"loss_scale_factor": 8.0, "global_clipnorm": 2.0},
    "accumulated": {"gradient_accumulation_steps": 3, "clipnorm": 1.0},
    "transformed": {"transform": transforms.centralize},
    "all": {
        "centered": True,
        "momentum": 0.5,
        "l2": 0.01,
        "weight_decay": 0.01,
        "global_clipnorm": 1.0,
        "gradient_accumulation_steps": 2,
        "use_ema": True,
    },
    "groups": {
        "groups": {
            "kernel": {"learning_rate": 0.1, "rho": 0.5, "l2": 0.1},
            "table": {"momentum": 0.9, "weight_decay": 0.1},
        }
    },
}


def centralized(gradient, _):
    """`transforms.centralize` in NumPy."""
    axes = tuple(range(gradient.ndim - 1))
    return gradient - gradient.mean(axes, keepdims=True) if axes else gradient


class Run:
    """An optimizer whose every step is sampled, with what NumPy finds in the same steps."""

    def __init__(self, options, shapes=SMALL, dtype="float32", histograms=False, **changes):
        rng = np.random.default_rng(0)
        self.weights = [
            keras.Variable(rng.normal(size=shape), dtype=dtype, name=name)
            for name, shape in shapes.items()
        ]
        self.options, self.dtype, self.found = options, dtype, None
        diagnostics = Diagnostics(every=1, histograms=histograms)
        self.optimizer = RMSprop(0.01, diagnostics=diagnostics, **options, **changes)
        self.optimizer.build(self.weights)

    def variables(self, gradients):
        """Return the variables as the next step finds them."""
        optimizer = self.optimizer
        slots = optimizer._roster.parameters

        def array(variable, otherwise=0.0):
            if variable is None:
                return otherwise
            return ops.convert_to_numpy(ops.cast(variable, "float64")).copy()

        found = {}
        for i, (weight, own, gradient) in enumerate(
            zip(self.weights, slots, gradients, strict=True)
        ):
            settings = optimizer._settings_of(i)
            names = oracle.Settings.__dataclass_fields__.keys() - {"transform", "rate_factor"}
            given = {name: getattr(settings, name) or 0.0 for name in names}
            transform = None
            if settings.transform is not None:
                transform = centralized
            groups = optimizer.groups
            factor = groups[weight.name].learning_rate if weight.name in groups else 1.0
            found[weight.name] = oracle.Variable(
                weight=array(weight),
                gradient=gradient,
                square_average=array(own.square_average),
                gradient_average=array(own.gradient_average),
                momentum=array(own.momentum),
                accumulator=array(own.accumulator),
                dtype=self.dtype,
                settings=oracle.Settings(**given, transform=transform, rate_factor=factor),
            )
        return found

    def step(self, gradients):
        """Make a call, and compute what it is to show if it completes a step."""
        optimizer = self.optimizer
        every = optimizer.gradient_accumulation_steps or 1
        calls = int(ops.convert_to_numpy(optimizer._iterations.value))
        clip = optimizer._derive().plan().clip
        numbers = optimizer._derive().numbers
        before = self.variables(gradients)
        optimizer.apply(
            [None if g is None else ops.convert_to_tensor(g) for g in gradients], self.weights
        )
        if (calls + 1) % every:
            return None
        step = oracle.Step(
            calls // every + 1,
            float(ops.convert_to_numpy(optimizer.learning_rate)),
            clip,
            numbers.clip if clip else math.inf,
            optimizer.loss_scale_factor or 1.0,
            every,
        )
        self.found = oracle.statistics_of(step, before, self.found)
        return oracle.elements_of(step, before)


def gradients_of(rng, dtype="float32", scale=1.0, shapes=SMALL):
    made = [scale * rng.normal(size=shape) for shape in shapes.values()]
    made[0][0] = 0.0
    return [np.asarray(g, dtype) for g in made]


def check(found, wanted, relative):
    for name in Statistics._fields:
        assert getattr(found, name) == pytest.approx(
            getattr(wanted, name), rel=relative, abs=1e-30, nan_ok=True
        ), name


def check_report(run, relative=1e-5):
    report = run.optimizer.diagnostics()
    for path, own in report.variables.items():
        check(own, run.found[path], relative)
    check(report.total, run.found[None], relative)
    return report


@pytest.mark.parametrize("case", CASES)
def test_statistics_are_those_of_numpy(case, monkeypatch):
    shapes = LARGE if case in (*IN_PIECES, *ON_THEIR_OWN) else SMALL
    if case in ON_THEIR_OWN:
        monkeypatch.setattr(_rows, "LARGE", _rows.PIECE)
    run, rng = Run(CASES[case], shapes), np.random.default_rng(1)
    for _ in range(6):
        run.step(gradients_of(rng, shapes=shapes))
        if run.found is not None:
            check_report(run)
    assert run.found[None].sampled >= 2


def test_float64_keeps_its_digits(float64):
    run, rng = Run(CASES["all"], dtype="float64"), np.random.default_rng(1)
    for _ in range(6):
        run.step(gradients_of(rng, "float64"))
    check_report(run, 1e-12)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_without_some_gradients_the_other_variables_keep_what_was_measured():
    run, rng = Run({"global_clipnorm": 1.0}), np.random.default_rng(1)
    for missing in ((), (1,), (0, 3), (), (2,)):
        given = gradients_of(rng)
        run.step([None if i in missing else g for i, g in enumerate(given)])
        check_report(run)
    report = run.optimizer.diagnostics()
    assert [own.sampled for own in report.variables.values()] == [4, 4, 4, 4]
    assert report.variables["scale"].step == 4
    assert report.total.step == 5


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_of_gradients_whose_squares_are_no_float32_numbers(scale):
    run = Run({})
    for seed in range(3):
        run.step(gradients_of(np.random.default_rng(seed), scale=scale))
    total, wanted = run.optimizer.diagnostics().total, run.found[None]
    for name in ("gradient_norm", "clipped_gradient_norm", "largest_gradient", "frozen_share"):
        assert getattr(total, name) == pytest.approx(getattr(wanted, name), rel=1e-5)
    # All but the elements whose gradients are 0.
    assert round(total.frozen_share) == (scale > 1.0)


def statistics_of(gradient, weight=1.0, **options):
    """Return what is measured in the first step of one variable."""
    gradient = np.asarray(gradient, np.float32)
    variable = keras.Variable(np.full(gradient.shape, weight), dtype="float32", name="kernel")
    optimizer = RMSprop(0.01, diagnostics=Diagnostics(every=1), **options)
    optimizer.build([variable])
    optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
    return optimizer.diagnostics().total


def test_sums_of_many_numbers_that_are_alike_keep_their_digits():
    # An embedding of which a batch touches few rows. Such roundings go in one direction.
    gradient = np.zeros((100_000, 32), np.float32)
    gradient[:200] = np.random.default_rng(0).normal(size=(200, 32))
    found = statistics_of(gradient, 0.3)
    average = 0.1 * gradient.astype(np.float64) ** 2
    rates = 0.01 / np.sqrt(average + 1e-7)
    assert found.mean_rate == pytest.approx(np.exp(np.log(rates).mean()), rel=1e-5)
    weight = float(np.float32(0.3))
    assert found.weight_norm == pytest.approx(weight * math.sqrt(gradient.size), rel=1e-5)
    norm = np.linalg.norm(gradient.astype(np.float64))
    assert found.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert found.update_norm == pytest.approx(np.linalg.norm(rates * gradient), rel=1e-5)


def test_gradients_that_are_far_above_the_limit_are_clipped_to_it():
    found = statistics_of(np.full(16, 1e25), clipvalue=1.0)
    assert found.clipped_gradient_norm == pytest.approx(4.0, rel=1e-5)
    assert found.gradient_norm == pytest.approx(4e25, rel=1e-5)
    # In rows of their own.
    gradient = np.ones(2048)
    gradient[1], gradient[1500] = np.inf, 1e25
    found = statistics_of(gradient, clipvalue=1.0)
    assert found.clipped_gradient_norm == pytest.approx(math.sqrt(2048), rel=1e-5)
    assert found.gradient_norm == math.inf


def test_small_gradients_beside_a_large_one_are_not_zero():
    assert statistics_of([1e15, *[1e-30] * 7, 0.0]).zero_gradient_share == pytest.approx(1 / 9)


def test_the_largest_numbers_of_float32_have_norms():
    found = statistics_of([2e38], 3e38)
    assert found.gradient_norm == pytest.approx(2e38, rel=1e-5)
    assert found.weight_norm == pytest.approx(3e38, rel=1e-5)


def test_a_norm_may_be_infinite_where_no_element_is():
    found = statistics_of(np.full(2000, 3e37))
    assert found.gradient_norm == math.inf
    assert found.largest_gradient == pytest.approx(3e37, rel=1e-5)
    assert found.nonfinite == 0
    assert statistics_of([1.0, -math.inf]).nonfinite == 1


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_norms_of_weights_and_updates_whose_squares_are_no_float32_numbers(size):
    found = statistics_of(np.ones(16), size)
    assert found.weight_norm == pytest.approx(4.0 * size, rel=1e-5)
    found = statistics_of(np.full(16, 1e-25))
    assert found.update_norm == pytest.approx(4.0 * 0.01 * 1e-25 / math.sqrt(1e-7), rel=1e-5)


def test_histograms_count_every_element():
    run = Run({"groups": {"kernel": {"learning_rate": 0.0}}}, histograms=True)
    for seed in range(3):
        elements = run.step(gradients_of(np.random.default_rng(seed)))
    for path, found in run.optimizer.diagnostics().histograms.items():
        wanted = oracle.histograms_of(elements[path], EDGES)
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.sum() == math.prod(SMALL[path])
            # An element on an edge may be on either side of it.
            assert np.abs(np.cumsum(ours) - np.cumsum(theirs)).max() <= 2


def test_the_step_after_a_skipped_call_is_sampled_instead():
    variable = keras.Variable(np.ones(3), dtype="float32", name="kernel")
    optimizer = RMSprop(0.1, diagnostics=Diagnostics(every=4), skip_nonfinite=True)
    optimizer.build([variable])
    for call in range(12):
        value = math.nan if call % 5 == 0 else 1.0
        optimizer.apply([ops.convert_to_tensor(np.full(3, value, np.float32))], [variable])
    total = optimizer.diagnostics().total
    # Of nine steps.
    assert (total.sampled, total.step) == (3, 9)


def test_a_skipped_call_is_counted_and_changes_nothing_else():
    run, rng = Run({"skip_nonfinite": True}), np.random.default_rng(1)
    for _ in range(3):
        run.step(gradients_of(rng))
    before = run.optimizer.diagnostics()
    bad = gradients_of(rng)
    bad[1][2] = np.inf
    run.optimizer.learning_rate = 1e-12
    run.optimizer.apply(list(map(ops.convert_to_tensor, bad)), run.weights)
    after = run.optimizer.diagnostics()
    assert after.skipped_steps == 1
    for path, own in after.variables.items():
        kept = before.variables[path]._replace(skipped=1, nonfinite=int(path == "bias"))
        assert own == kept
    assert after.total == before.total._replace(skipped=1, nonfinite=1)


def test_a_nan_that_is_not_skipped_is_counted():
    run, rng = Run({}), np.random.default_rng(1)
    for _ in range(2):
        run.step(gradients_of(rng))
    bad = gradients_of(rng)
    bad[1][2] = np.nan
    run.step(bad)
    report = run.optimizer.diagnostics()
    assert report.variables["bias"].nonfinite == report.total.nonfinite == 1
    assert math.isnan(report.variables["bias"].gradient_norm)
    assert math.isnan(report.variables["bias"].update_norm)
    assert report.variables["kernel"].nonfinite == 0
    check(report.variables["kernel"], run.found["kernel"], 1e-5)


def test_the_largest_norm_so_far_and_the_steps_at_rest_are_kept():
    weight = keras.Variable([1.0, 1.0], name="w")
    optimizer = RMSprop(diagnostics=Diagnostics(every=1))
    seen = []
    # 1.01e-4 of the largest rate is not yet at rest.
    rates = (1e-3, 1e-2, 1.01e-6, 0.99e-6, 0.0, 1e-2)
    for rate, value in zip(rates, (3.0, 5.0, np.inf, 4.0, np.nan, 2.0), strict=True):
        optimizer.learning_rate = rate
        weight.assign([value, 0.0])
        optimizer.apply([ops.ones(2)], [weight])
        own = optimizer.diagnostics().variables["w"]
        seen.append((own.largest_weight_norm, own.at_rest))
    assert seen == [(3.0, 0), (5.0, 0), (5.0, 0), (5.0, 1), (5.0, 2), (5.0, 2)]


def test_half_precision_weights_that_no_longer_move_are_counted():
    weight = keras.Variable(np.full(64, 256.0), dtype="bfloat16", name="w")
    optimizer = RMSprop(1e-3, diagnostics=Diagnostics(every=1))
    optimizer.apply([ops.ones(64)], [weight])
    assert optimizer.diagnostics().total.stuck_share == 1.0
    optimizer.learning_rate = 10.0
    optimizer.apply([ops.ones(64)], [weight])
    assert optimizer.diagnostics().total.stuck_share == 0.0


@pytest.mark.parametrize("accumulation", [None, 3])
def test_every_so_many_steps_are_sampled_the_first_one_to_begin_with(accumulation):
    weight = keras.Variable([1.0, 2.0], name="w")
    optimizer = RMSprop(diagnostics=Diagnostics(every=4), gradient_accumulation_steps=accumulation)
    seen = []
    for _ in range(10 * (accumulation or 1)):
        optimizer.apply([ops.ones(2)], [weight])
        seen.append(optimizer.diagnostics().total.step)
    assert list(dict.fromkeys(seen)) == ([1, 5, 9] if accumulation is None else [0, 1, 5, 9])
    assert optimizer.diagnostics().total.sampled == 3


def test_sampling_follows_the_counter_when_a_state_is_loaded():
    weight = keras.Variable([1.0, 2.0], name="w")
    optimizer = RMSprop(diagnostics=Diagnostics(every=5))
    optimizer.apply([ops.ones(2)], [weight])
    optimizer.load_state_dict(optimizer.state_dict() | {"iteration": np.array(1003)})
    for _ in range(9):
        optimizer.apply([ops.ones(2)], [weight])
    total = optimizer.diagnostics().total
    assert (total.step, total.sampled) == (1011, 2)


def test_patterns_choose_the_variables():
    weights = [keras.Variable(np.ones(3), name=name) for name in ("kernel", "bias", "other")]
    optimizer = RMSprop(diagnostics=Diagnostics(every=1, variables=["kernel", "b.*"]))
    optimizer.apply([ops.ones(3)] * 3, weights)
    report = optimizer.diagnostics()
    assert list(report.variables) == ["kernel", "bias"]
    assert report.total.gradient_norm == pytest.approx(math.sqrt(6.0))
    nothing = RMSprop(diagnostics=Diagnostics(variables="nothing"))
    with pytest.raises(ValueError, match=r"matches none.*'kernel'"):
        nothing.build(weights)
    assert not nothing.built


def test_decay_is_reported_where_it_acts():
    paths = ("kernel", "bias", "own", "transformed")
    weights = [WithPath(path, np.ones(20, "float32")) for path in paths]
    groups = {
        "own": {"weight_decay": 0.5},
        "transformed": {"l2": 0.25, "transform": transforms.normalize},
    }
    optimizer = RMSprop(
        0.125, weight_decay=2.0, l2=0.5, groups=groups, diagnostics=Diagnostics(every=1)
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply([ops.ones(20)] * 4, weights)
    settings = optimizer.diagnostics().settings
    assert {path: (own.weight_decay, own.l2) for path, own in settings.items()} == {
        "kernel": (2.0, 0.5),
        "bias": (0.0, 0.5),
        "own": (0.5, 0.5),
        "transformed": (2.0, 0.0),
    }
    words = " ".join(str(optimizer.explain()).split())
    assert "Weight decay takes another 6.25 % to 25 % of each weight. A guide" in words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "received diagnostics=5"),
        ({"evry": 5}, "evry"),
        (Diagnostics(every=0), "integer >= 1, received 0"),
        (Diagnostics(every=2.5), "integer >= 1, received 2.5"),
        (Diagnostics(every=True), "integer >= 1, received True"),
        (Diagnostics(variables="("), "regular expression"),
        (Diagnostics(variables=[]), "received \\[\\]"),
        (Diagnostics(variables=[3]), "received \\[3\\]"),
        (Diagnostics(histograms=1), "True or False, received 1"),
    ],
)
def test_bad_settings_are_refused(value, words):
    with pytest.raises(ValueError, match=words):
        RMSprop(diagnostics=value)


def test_only_a_name_that_was_given_is_reported():
    class OwnRMS(RMSprop):
        pass

    def name_of(optimizer):
        return optimizer.diagnostics().name

    # Keras numbers them.
    assert {name_of(RMSprop(diagnostics=True)) for _ in range(3)} == {"rmsprop"}
    assert {name_of(OwnRMS(diagnostics=True)) for _ in range(3)} == {"own_rms"}
    assert name_of(conventions.tf1(0.01, diagnostics=True)) == "rmsprop"
    for name in ("critic", "rmsprop_1", "rm_sprop_critic", "rm_sprop_x1", "Own_RMS"):
        optimizer = RMSprop(diagnostics=True, name=name)
        assert name_of(optimizer) == name
        assert name_of(RMSprop.from_config(optimizer.get_config())) == name
    unnamed = RMSprop.from_config(RMSprop(diagnostics=True).get_config())
    assert name_of(unnamed) == "rmsprop"


def test_nothing_is_reported_unless_asked():
    with pytest.raises(ValueError, match="Pass `diagnostics=True`"):
        RMSprop().diagnostics()


def test_before_the_build_and_the_first_sample_nothing_is_claimed():
    optimizer = RMSprop(diagnostics=True)
    assert "not built" in optimizer.diagnostics().reason
    assert "not built" in str(optimizer.diagnostics())
    optimizer.build([keras.Variable([1.0], name="w")])
    report = optimizer.diagnostics()
    assert report.variables["w"].sampled == 0
    assert math.isnan(report.variables["w"].gradient_norm)
    assert "0.0e+00" not in str(report)


def test_settings_are_part_of_the_config():
    asked = Diagnostics(every=7, variables=["a", "b"], histograms=True)
    config = RMSprop(diagnostics=asked).get_config()
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(RMSprop.from_config(config))
    )
    assert again.get_config()["diagnostics"] == config["diagnostics"]
    assert again.get_config()["diagnostics"] == {
        "every": 7,
        "variables": ["a", "b"],
        "histograms": True,
    }
    assert RMSprop().get_config()["diagnostics"] is None


def test_an_update_step_of_ones_own_is_not_measured_as_the_rule():
    class Half(RMSprop):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient * 0.5, variable, learning_rate)

    weight = keras.Variable([3.0, 4.0], name="w")
    optimizer = Half(diagnostics=Diagnostics(every=1))
    optimizer.apply([ops.ones(2)], [weight])
    report = optimizer.diagnostics()
    assert "Half has an `update_step`" in report.reason
    found = report.variables["w"]
    assert found.gradient_norm == pytest.approx(math.sqrt(2.0))
    assert found.weight_norm == 5.0
    assert math.isnan(found.update_norm)
    assert math.isnan(found.mean_rate)


def test_a_step_that_is_refused_is_not_counted():
    weight = keras.Variable(np.ones((3, 3)), name="w")

    def refuses(gradient, _):
        return gradient[0]

    keras.saving.register_keras_serializable(package="tests", name="refuses")(refuses)
    optimizer = RMSprop(diagnostics=Diagnostics(every=1), transform=refuses)
    with pytest.raises(ValueError, match="refuses"):
        optimizer.apply([ops.ones((3, 3))], [weight])
    assert optimizer.diagnostics().total.sampled == 0


def test_the_table_is_no_state():
    weight = keras.Variable([1.0, 2.0], name="w")
    plain, watching = RMSprop(), RMSprop(diagnostics=Diagnostics(every=1))
    for optimizer in (plain, watching):
        optimizer.apply([ops.ones(2)], [weight])
    assert plain.state_dict().keys() == watching.state_dict().keys()
    plain.load_state_dict(watching.state_dict())
    with pytest.raises(ValueError, match="Nothing was loaded"):
        watching.load_state_dict(watching.state_dict() | {"iteration": np.array(1e30)})
    assert watching.diagnostics().total.sampled == 1
    # Statistics are of the steps since.
    watching.load_state_dict(plain.state_dict())
    assert watching.diagnostics().total.sampled == 0
    watching.apply([ops.ones(2)], [weight])
    assert watching.diagnostics().total.sampled == 1


@pytest.mark.parametrize("histograms", [False, True])
def test_added_variables_are_watched_too(histograms):
    first, second = (keras.Variable([1.0, 2.0], name=name) for name in "ab")
    optimizer = RMSprop(diagnostics=Diagnostics(every=1, histograms=histograms))
    optimizer.apply([ops.ones(2)], [first])
    count = len(optimizer.variables)
    before = optimizer.diagnostics()
    # The order is that of the call.
    optimizer.add_variables([second, first])
    added = optimizer.diagnostics()
    assert [own.samples_before for own in added.settings.values()] == [1, 0]
    assert list(added.variables) == ["b", "a"]
    assert (added.variables["a"], added.total) == (before.variables["a"], before.total)
    assert added.variables["b"].sampled == 0
    if histograms:
        for old, new in zip(before.histograms["a"], added.histograms["a"], strict=True):
            assert new.sum() == 2
            np.testing.assert_array_equal(new, old)
    optimizer.apply([ops.ones(2)] * 2, [second, first])
    after = optimizer.diagnostics()
    assert [own.sampled for own in (*after.variables.values(), after.total)] == [1, 2, 2]
    # A slot more, and no second table.
    assert len(optimizer.variables) == count + 1
    optimizer.add_variables([], groups={"b": {"learning_rate": 0.5}})
    regrouped = optimizer.diagnostics()
    assert regrouped.variables == after.variables
    assert [own.samples_before for own in regrouped.settings.values()] == [1, 0]


def test_a_callable_rate_is_asked_once_a_step():
    asked = []

    def rate():
        asked.append(None)
        return 0.1

    weight = keras.Variable([1.0, 2.0], name="w")
    optimizer = RMSprop(rate, diagnostics=Diagnostics(every=2))
    for _ in range(5):
        optimizer.apply([ops.ones(2)], [weight])
    assert len(asked) == 5
    assert optimizer.diagnostics().total.learning_rate == pytest.approx(0.1)


def test_the_package_has_it_by_name():
    assert keras_rmsprop.Diagnostics is Diagnostics


def test_variables_without_elements_are_not_counted():
    weights = [
        keras.Variable(np.ones(shape), name=name) for name, shape in (("a", (2,)), ("e", (0, 3)))
    ]
    optimizer = RMSprop(diagnostics=Diagnostics(every=1, variables="e"))
    optimizer.apply([ops.ones((2,)), ops.zeros((0, 3))], weights)
    assert optimizer.diagnostics().total.sampled == 0
