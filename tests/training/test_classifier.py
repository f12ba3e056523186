import pickle
from copy import deepcopy
from functools import partial
from math import cos, pi

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, GradientAccumulationScheduler, StochasticWeightAveraging
from torch.utils.data import DataLoader

from fmnist import MLP, FashionMNIST, FashionMNISTDataModule, ImageClassifier, UserError
from fmnist.data.sampler import EpochSampler
from fmnist.training.loss import balance
from fmnist.training.optimization import describe_optimizer, learning_rate_factor, make_optimizer


@pytest.fixture
def fit(workplace):
    """Trains a model as in a notebook. Returns the trainer."""

    def fit(model, data=None, ckpt_path=None, **options):
        settings = {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        settings["enable_checkpointing"] = False
        trainer = Trainer(**{"accelerator": "cpu", "num_sanity_val_steps": 0, **settings, **options})
        trainer.fit(model, data or FashionMNISTDataModule(val_size=100), ckpt_path=ckpt_path)
        return trainer

    return fit


def test_works_without_the_command_line(fit):
    seed_everything(0, verbose=False)
    model = ImageClassifier(hidden_dims=[32])
    trainer = fit(model, max_epochs=3)
    assert trainer.callback_metrics["val/acc"] > 0.9
    assert model.hparams["class_names"][9] == "Ankle boot"
    (results,) = trainer.test(model, FashionMNISTDataModule(val_size=100), verbose=False)
    assert results["test/acc"] > 0.9
    assert results["test/num_samples"] == 200


def test_logged_metrics_equal_those_of_the_whole_set(fit):
    data = FashionMNISTDataModule(val_size=100)
    model = ImageClassifier(hidden_dims=[8])
    trainer = fit(model, data)
    logits = model.eval()(data.val_set.images)
    loss = torch.nn.functional.cross_entropy(logits, data.val_set.labels)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    accuracy = (logits.argmax(1) == data.val_set.labels).float().mean()
    assert trainer.callback_metrics["val/acc"].item() == pytest.approx(accuracy.item())
    assert {"train/loss", "train/acc"} <= trainer.callback_metrics.keys()


@pytest.mark.parametrize(
    "optimizer", [partial(torch.optim.AdamW, lr=1e-3), lambda params: torch.optim.SGD(params, lr=0.1, nesterov=False)]
)
def test_checkpoint_of_a_model_made_in_python_holds_plain_values(fit, optimizer):
    model = ImageClassifier(hidden_dims=(16, 8), normalization="batch", optimizer=optimizer)
    trainer = fit(model)
    trainer.save_checkpoint("model.ckpt")
    torch.load("model.ckpt", weights_only=True)
    loaded = ImageClassifier.load_from_checkpoint("model.ckpt")
    assert loaded.hparams["optimizer"] == model.hparams["optimizer"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert loaded.temperature != 1


def test_balanced_weights_make_all_classes_count_the_same():
    labels = torch.tensor([0] * 90 + [2] * 10)
    weights = balance(torch.bincount(labels, minlength=4))
    assert weights.tolist() == pytest.approx([100 / 180, 0, 100 / 20, 0])
    assert weights[labels].sum().item() == pytest.approx(100)


def test_rare_classes_are_found_with_balanced_weights(fit):
    """One class is twenty times as rare as the others, and hard to tell."""

    class Rare(FashionMNIST):
        def load(self, train):
            images, labels = super().load(train)
            keep = (labels != 6) | (torch.arange(len(labels)) % (20 if train else 1) == 0)
            return images[keep], labels[keep]

    def recall(**options):
        seed_everything(0, verbose=False)
        model = ImageClassifier(hidden_dims=[8], optimizer=partial(torch.optim.SGD, lr=0.01), **options)
        fit(model, FashionMNISTDataModule(Rare(), val_size=50), max_epochs=4)
        images, labels = Rare().load(train=False)
        return (model.eval()(images).argmax(1)[labels == 6] == 6).float().mean()

    assert recall(class_weights="balanced") > recall() + 0.1


def test_optimizer_is_written_down_with_its_settings():
    made = partial(torch.optim.Adam, lr=0.25, betas=(0.5, 0.75))
    found = describe_optimizer(make_optimizer(made, [torch.nn.Parameter(torch.zeros(1))]))
    assert found["class_path"] == "torch.optim.adam.Adam"
    assert found["init_args"]["lr"] == 0.25
    assert found["init_args"]["betas"] == (0.5, 0.75)


def test_settings_that_are_changed_between_two_trainings_are_obeyed_and_written_down(fit):
    model = ImageClassifier(hidden_dims=[8], class_weights="balanced")
    fit(model)
    assert model.class_weights is not None
    model.optimizer = partial(torch.optim.Adam, lr=0.25)
    model.hparams.update(lr_schedule="linear", label_smoothing=0.5, class_weights="none")
    trainer = fit(model)
    trainer.save_checkpoint("model.ckpt")
    saved = torch.load("model.ckpt", weights_only=True)["hyper_parameters"]
    assert isinstance(trainer.optimizers[0], torch.optim.Adam)
    assert (saved["optimizer"]["class_path"], saved["optimizer"]["init_args"]["lr"]) == ("torch.optim.adam.Adam", 0.25)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0
    assert model.class_weights is None
    assert trainer.callback_metrics["train/loss"] > 1  # of targets that are half even


def test_weight_decay_spares_biases_and_norms(fit):
    decayed = partial(torch.optim.SGD, lr=0.1, weight_decay=0.5)
    trainer = fit(ImageClassifier(hidden_dims=[8], normalization="batch", optimizer=decayed))
    weights, others = trainer.optimizers[0].param_groups
    assert [p.ndim for p in weights["params"]] == [2, 2]
    assert weights["weight_decay"] == 0.5
    assert [p.ndim for p in others["params"]] == [1, 1, 1]
    assert others["weight_decay"] == 0


def test_label_smoothing_is_for_training_only(fit):
    model = ImageClassifier(hidden_dims=[8], label_smoothing=0.5, optimizer=partial(torch.optim.SGD, lr=0.0))
    metrics = fit(model).callback_metrics
    assert metrics["train/loss"] != pytest.approx(metrics["val/loss"].item(), abs=1e-3)
    plain = fit(ImageClassifier(hidden_dims=[8], optimizer=partial(torch.optim.SGD, lr=0.0))).callback_metrics
    assert plain["train/loss"] == pytest.approx(plain["val/loss"].item(), abs=0.1)


@pytest.mark.parametrize("options", [{}, {"class_weights": "balanced"}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_mixup_learns_from_blends_and_is_for_training_only(fit, precision, options):
    seed_everything(0, verbose=False)
    model = ImageClassifier(hidden_dims=[32], mixup=0.5, **options)
    metrics = fit(model, max_epochs=3, precision=precision).callback_metrics
    assert metrics["val/acc"] > 0.9
    assert metrics["train/loss"] > metrics["val/loss"] + 0.1  # a blend cannot be told with certainty


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.5, 0]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.5, 0]),
    ],
)
def test_schedule(schedule, expected):
    steps = (0, 1, 2, 6, 10)  # two steps of warm-up, then eight
    assert [learning_rate_factor(step, 10, 0.2, schedule) for step in steps] == pytest.approx(expected)


def test_a_schedule_stays_at_its_end():
    assert [learning_rate_factor(step, 10, 0.2, "linear") for step in (10, 11, 1000)] == [0, 0, 0]
    assert learning_rate_factor(1000, 10, 0.2, "cosine") == pytest.approx(0)


class Rates(Callback):
    """Keeps the learning rate of each batch, as a share of the highest, beside epoch, batch and steps per epoch."""

    def __init__(self, stop_after=100):
        self.seen, self.stop_after = [], stop_after

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        every = trainer.accumulate_grad_batches
        steps = -(-trainer.num_training_batches // every)
        rates = [group["lr"] / 0.1 for group in trainer.optimizers[0].param_groups]
        assert rates[0] == rates[1]
        self.seen.append((trainer.current_epoch * steps + batch_idx // every, steps, rates[0]))

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 == self.stop_after


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", lambda step, warm, total: (total - step) / (total - warm)),
        ("cosine", lambda step, warm, total: (1 + cos(pi * (step - warm) / (total - warm))) / 2),
        ("constant", lambda step, warm, total: 1),
    ],
)
@pytest.mark.parametrize(
    ("batch_size", "options"),
    [
        (250, {}),
        (16, {}),
        (64, {"accumulate_grad_batches": 3}),
        (64, {"limit_train_batches": 2}),
        (64, {"max_epochs": 7}),
        (64, {"max_epochs": 3}),
        (64, {"callbacks": [GradientAccumulationScheduler({0: 1, 2: 4, 3: 2})]}),
        (100, {"max_epochs": 6, "accumulate_grad_batches": 2, "limit_train_batches": 0.5}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_a_run_that_is_continued_in_another_way_goes_on_where_it_was_in_its_schedule(
    fit, schedule, expected, batch_size, options
):
    settings = {"hidden_dims": [8], "lr_schedule": schedule, "warmup_ratio": 0.1}
    fit(ImageClassifier(**settings), max_epochs=4, callbacks=[Rates(stop_after=2)]).save_checkpoint("half.ckpt")
    rates, epochs = Rates(), options.get("max_epochs", 4)
    callbacks = [rates, *options.get("callbacks", [])]
    data = FashionMNISTDataModule(val_size=100, batch_size=batch_size)
    fit(ImageClassifier(**settings), data, "half.ckpt", **{"max_epochs": 4, **options, "callbacks": callbacks})
    assert rates.seen[-1][0] // rates.seen[-1][1] == epochs - 1
    for step, per_epoch, rate in rates.seen:
        total = per_epoch * epochs
        warm = round(0.1 * total)
        wanted = (step + 1) / (warm + 1) if step < warm else expected(step, warm, total)
        assert rate == pytest.approx(wanted, abs=1e-9)
    assert 0 <= rates.seen[-1][2] <= rates.seen[0][2] <= 1


@pytest.mark.parametrize(
    ("options", "total"), [({"max_steps": 12, "max_epochs": -1}, 12), ({"max_steps": 10, "max_epochs": 3}, 10)]
)
def test_a_schedule_ends_with_max_steps(fit, options, total):
    rates = Rates()
    fit(ImageClassifier(hidden_dims=[8], lr_schedule="linear"), callbacks=[rates], **options)
    assert [rate for _, _, rate in rates.seen] == pytest.approx([1 - step / total for step in range(total)])


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}])
def test_a_resumed_schedule_is_the_uninterrupted_one_bit_for_bit(fit, options):
    def train(stop_after, ckpt_path=None):
        seed_everything(0, verbose=False)
        model = ImageClassifier(hidden_dims=[8], lr_schedule="cosine", warmup_ratio=0.2)
        return fit(model, ckpt_path=ckpt_path, max_epochs=4, callbacks=[Rates(stop_after)], **options)

    train(2).save_checkpoint("half.ckpt")
    train(4).save_checkpoint("whole.ckpt")
    train(4, "half.ckpt").save_checkpoint("resumed.ckpt")
    whole, resumed = (torch.load(f"{name}.ckpt", weights_only=True) for name in ("whole", "resumed"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert str(whole[part]) == str(resumed[part]), part
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], tensor), name


def test_schedule_knows_the_number_of_steps_by_itself(fit):
    model = ImageClassifier(hidden_dims=[8], lr_schedule="cosine", warmup_ratio=0.25)
    trainer = fit(model, max_epochs=2)
    assert trainer.global_step == 16  # 500 images in batches of 64, twice
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_schedule_without_an_end_is_refused(fit):
    with pytest.raises(UserError, match="a learning rate schedule needs an end"):
        fit(ImageClassifier(hidden_dims=[8], lr_schedule="cosine"), max_epochs=-1)


def test_divergence_stops_before_a_checkpoint_is_written(fit, workplace):
    model = ImageClassifier(hidden_dims=[8], optimizer=partial(torch.optim.SGD, lr=1e30))
    with pytest.raises(UserError, match=r"training loss is nan after epoch 1 at learning rate 1e\+30"):
        fit(model)
    assert not list(workplace.rglob("*.ckpt"))


def test_randomness_of_an_epoch_does_not_depend_on_what_was_drawn_before(fit):
    weights = []
    for draws in (0, 1000):
        torch.manual_seed(0)
        model = ImageClassifier(hidden_dims=[16], dropout=0.5)
        torch.manual_seed(0)
        data = FashionMNISTDataModule(val_size=100, flip=True, shift=2)
        model.on_fit_start = lambda draws=draws: torch.rand(draws)
        fit(model, data)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_data_with_other_classes_is_refused(fit):
    with pytest.raises(UserError, match=r"the model predicts cat, dog; the data has T-shirt/top"):
        fit(ImageClassifier(hidden_dims=[8], class_names=["cat", "dog"]))


def test_a_checkpoint_with_other_classes_is_refused_before_its_weights_are_loaded(fit):
    shoes = {"Sneaker": "Shoe", "Ankle boot": "Shoe", "Sandal": "Shoe"}
    data = FashionMNISTDataModule(val_size=100, class_map=shoes)
    fit(ImageClassifier(hidden_dims=[8], class_names=data.class_names), data).save_checkpoint("shoes.ckpt")
    with pytest.raises(UserError, match=r"the model predicts T-shirt/top, .*; the checkpoint has .*, Shoe"):
        fit(ImageClassifier(hidden_dims=[8]), ckpt_path="shoes.ckpt")
    assert ImageClassifier.load_from_checkpoint("shoes.ckpt").hparams["class_names"] == data.class_names


def test_what_a_checkpoint_describes_is_not_imported_unless_it_is_of_torch(fit):
    model = ImageClassifier(hidden_dims=[8], optimizer=partial(torch.optim.Adam, lr=1e-3))
    fit(model).save_checkpoint("model.ckpt")
    loaded = ImageClassifier.load_from_checkpoint("model.ckpt")
    assert isinstance(fit(loaded).optimizers[0], torch.optim.Adam)
    for settings, message in (
        ({"optimizer": {"class_path": "os.system"}}, "model.optimizer is os.system, which is not one of torch.optim"),
        ({"network": {"class_path": "os.system", "init_args": {}}}, "model.network is the description of os.system"),
        ({"network": "os.system"}, "model.network is the description of os.system"),
    ):
        with pytest.raises(UserError, match=message):
            fit(ImageClassifier.load_from_checkpoint("model.ckpt", **settings))


def test_a_second_training_takes_the_seed_of_the_run_and_not_that_of_the_last_epoch(fit):
    seed_everything(5, verbose=False)
    models = [ImageClassifier(hidden_dims=[16], dropout=0.5)]
    models.append(deepcopy(models[0]))
    for model in models:
        fit(model, max_epochs=2)
    assert torch.equal(*(model.state_dict()["network.1.weight"] for model in models))


def test_a_prediction_between_two_trainings_does_not_change_the_second(fit):
    seed_everything(5, verbose=False)
    models = [ImageClassifier(hidden_dims=[16], dropout=0.5, normalization="batch")]
    fit(models[0])
    models.append(deepcopy(models[0]))
    models[1].network.eval()(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    for model in models:
        fit(model)
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_the_calibration_of_a_first_training_is_not_that_of_a_second(fit):
    model = ImageClassifier(hidden_dims=[16])
    fit(model, FashionMNISTDataModule(val_size=200), max_epochs=2)
    assert model.temperature != 1
    assert model.typicality.state
    fit(model, FashionMNISTDataModule(val_size=0))
    assert model.temperature == 1
    assert not model.typicality.state


@pytest.mark.filterwarnings("ignore:.*module.s. in eval mode at the start of training")
def test_a_layer_that_is_frozen_by_its_mode_stays_so(fit):
    model = ImageClassifier(hidden_dims=[16], normalization="batch")
    norm = next(module for module in model.network if isinstance(module, torch.nn.BatchNorm1d))
    fit(model.train())
    before = norm.eval().running_mean.clone()
    fit(model)
    assert torch.equal(norm.running_mean, before)


def test_the_precision_is_that_of_the_trainer_of_each_training(fit):
    model = ImageClassifier(hidden_dims=[16])
    for precision, dtype in (("64-true", torch.float64), ("32-true", torch.float32), ("64-true", torch.float64)):
        fit(model, precision=precision)
        assert next(model.parameters()).dtype == dtype
        assert model.trainer.callback_metrics["val/acc"] > 0.5
    weight = next(model.parameters()).clone()
    fit(model, precision="64-true", max_steps=0)
    assert torch.equal(next(model.parameters()), weight), "64 bits were cut to 32 on the way"


@pytest.mark.parametrize("given", [{}, {"mean": 0.5, "std": 0.25}])
def test_callbacks_that_copy_the_model_find_the_statistics_of_the_data(fit, given):
    class Copies(Callback):
        def setup(self, trainer, pl_module, stage):
            self.copy = deepcopy(pl_module.network[0])

    class Unpublished(FashionMNIST):
        pixels = None

    copies, data = Copies(), FashionMNISTDataModule(Unpublished(), val_size=100)
    model = ImageClassifier(hidden_dims=[8], **given)
    fit(model, data, callbacks=[copies])
    pixels = data.train_set.images / 255
    wanted = given or {"mean": pixels.mean().item(), "std": pixels.std().item()}
    assert {name: model.hparams[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)
    found = copies.copy(data.train_set.images)
    assert torch.equal(found, model.network[0](data.train_set.images))
    assert torch.allclose(found, (pixels - wanted["mean"]) / wanted["std"], atol=1e-3)


def test_an_epoch_gives_the_weights_of_a_plain_loop_bit_for_bit(fit):
    options = {"momentum": 0.9, "nesterov": True}
    seed_everything(3, verbose=False)
    model = ImageClassifier(hidden_dims=[64, 32], optimizer=partial(torch.optim.SGD, lr=0.1, **options))
    data = FashionMNISTDataModule(val_size=100, batch_size=64)
    trainer = fit(model, data)
    seed_everything(3, verbose=False)
    plain = MLP(hidden_dims=[64, 32])
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, **options)
    order = torch.tensor(list(EpochSampler(500, shuffle=True, seed=3)))
    for rows in order.split(64):
        loss = torch.nn.functional.cross_entropy(plain(data.train_set.images[rows]), data.train_set.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert trainer.global_step == 8
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor), name


def test_half_precision_trains_as_well_and_is_measured_in_float32(fit):
    class Logits(Callback):
        """Keeps the logits of validation, and whether training steps are in bfloat16."""

        def on_validation_epoch_end(self, trainer, pl_module):
            self.seen = torch.cat(pl_module.val_outputs.logits)

        def on_train_batch_end(self, trainer, pl_module, *_):
            self.trained_in = pl_module.last

    class Watched(ImageClassifier):
        def forward(self, images):
            logits = super().forward(images)
            self.last = logits.dtype
            return logits

    inside, after, data = Logits(), Logits(), FashionMNISTDataModule(val_size=100)
    model = Watched(hidden_dims=[32])
    trainer = fit(model, data, precision="bf16-mixed", max_epochs=3, callbacks=[inside])
    assert trainer.callback_metrics["val/acc"] > 0.9
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert inside.trained_in == torch.bfloat16
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    for precision in ("32-true", "bf16-mixed"):
        found = Trainer(precision=precision, callbacks=[after], **quiet)
        (metrics,) = found.validate(model, data, verbose=False)
        assert inside.seen.dtype == after.seen.dtype == torch.float32
        assert torch.equal(inside.seen, after.seen)
        for name, value in metrics.items():
            assert value == trainer.callback_metrics[name], name
        (tested,) = found.test(model, data, verbose=False)
        assert torch.equal(model.evaluated.output.logits, model.network.eval()(data.test_set.images))
        assert tested["test/num_samples"] == 200


@pytest.fixture
def loaders(workplace):
    """Makes ordinary loaders of the small data set: training, validation and test images."""

    def loaders(change=lambda image: image):
        data = FashionMNISTDataModule(val_size=100)
        data.prepare_data()
        data.setup()
        sets = (data.train_set, data.val_set, data.test_set)
        pairs = ([(change(image), label) for image, label in zip(s.images, s.labels, strict=True)] for s in sets)
        return [DataLoader(rows, batch_size=64) for rows in pairs]

    return loaders


def train_on(loaders):
    seed_everything(0, verbose=False)
    model = ImageClassifier(hidden_dims=[16])
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, enable_checkpointing=False, **quiet)
    trainer.fit(model, *loaders[:2])
    return model, trainer


def test_floats_of_ordinary_loaders_are_what_bytes_are(loaders):
    of_bytes, of_floats = loaders(), loaders(lambda image: image / 255)
    model, trainer = train_on(of_bytes)
    same, _ = train_on(of_floats)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(same.state_dict()[name], tensor, atol=1e-4), name
    losses = [trainer.test(model, loader, verbose=False)[0]["test/loss"] for loader in (of_bytes[2], of_floats[2])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    images = next(iter(of_bytes[2]))[0]
    for floats in (images / 255, images.double() / 255, images.half() / 255):
        assert torch.allclose(model.eval()(floats), model(images), atol=1e-2)
        assert torch.allclose(model.trained()(floats), model.trained()(images), atol=1e-2)


@pytest.mark.parametrize("change", [lambda image: (image / 255 - 0.286) / 0.353, lambda image: image.float()])
def test_floats_on_another_scale_are_refused(loaders, change):
    wrong = loaders(change)
    with pytest.raises(UserError, match=r"must lie between 0 and 1, as ToTensor\(\) gives them: here are .* to "):
        train_on(wrong)
    model, trainer = train_on(loaders())
    for look in (trainer.test, trainer.validate, trainer.predict):
        with pytest.raises(UserError, match="must lie between 0 and 1"):
            look(model, wrong[2])


def test_classes_cannot_be_weighed_without_a_data_module(loaders):
    model = ImageClassifier(class_weights="balanced")
    trainer = Trainer(
        accelerator="cpu", logger=False, max_epochs=1, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(UserError, match="the classes are counted in a data module"):
        trainer.fit(model, *loaders()[:2])


def test_callbacks_find_the_network_when_they_are_set_up(fit):
    class Looks(Callback):
        def setup(self, trainer, pl_module, stage):
            self.found = sum(parameter.numel() for parameter in pl_module.network.parameters())

    looks = Looks()
    fit(ImageClassifier(hidden_dims=[8]), callbacks=[looks])
    assert looks.found == 784 * 8 + 8 + 8 * 10 + 10


def test_averages_that_no_checkpoint_would_have_are_refused(fit):
    with pytest.raises(UserError, match="use EMAWeightAveraging"):
        fit(ImageClassifier(hidden_dims=[8]), callbacks=[StochasticWeightAveraging(0.05)])
    with pytest.raises(
        UserError, match="EMAWeightAveraging would never start averaging: the run has 8 steps in 1 epochs"
    ):
        fit(ImageClassifier(hidden_dims=[8]), callbacks=[EMAWeightAveraging(update_starting_at_step=8)])


def test_a_model_can_be_pickled():
    model = ImageClassifier(hidden_dims=[8])
    again = pickle.loads(pickle.dumps(model))
    assert again.hparams == model.hparams
    assert again.configure_optimizers().param_groups[0]["lr"] == 0.1


def test_statistics_that_another_process_would_measure_are_asked_for(fit):
    class Unpublished(FashionMNIST):
        pixels = None

    data = FashionMNISTDataModule(Unpublished(), val_size=100)
    with pytest.raises(Exception, match=r"returns weights only: give mean=0.*, std=0"):
        fit(ImageClassifier(hidden_dims=[8]), data, strategy="ddp_fork", devices=1)


@pytest.mark.filterwarnings("ignore:.*sync_dist=True")
def test_a_forked_training_gives_its_weights_back(fit):
    seed_everything(0, verbose=False)
    model = ImageClassifier(hidden_dims=[16])
    data = FashionMNISTDataModule(val_size=100)
    trainer = fit(model, data, strategy="ddp_fork", devices=1, max_epochs=3)
    data.setup()
    accuracy = (model.eval()(data.val_set.images).argmax(1) == data.val_set.labels).float().mean().item()
    assert accuracy == pytest.approx(trainer.callback_metrics["val/acc"].item())
    assert accuracy > 0.9
