"""The recipes: one entry for each publication, with nothing in it that the publication lacks.

Recipes of a program have its default settings; those of a paper ("_paper") have what its text says.
Where the two differ, they are two recipes.
"""

from keras_rmsprop.recipes._rates import Constant, InverseTime, LinearToZero, Staircase
from keras_rmsprop.recipes._recipe import Average, Clip, Recipe, WeightDecay

# Reasons why an argument must be given.
_NO_EPSILON = (
    "the paper does not give it, and TensorFlow's default, 1e-10, need not have been used; the "
    "authors' code, `{}`, has {}"
)
_NO_FORM = (
    "the paper gives the amount only; 'coupled' adds it to the gradient, times the weight (L2), "
    "and 'decoupled' shrinks the weight by it, times the learning rate; the authors' code, `{}`, "
    "has the coupled form"
)
_NO_DECAY_START = (
    "'start' or 'end of warm-up': the paper says that the rate is warmed up and then decayed, not "
    "from where the epochs between decays count; the authors' code counts from the start"
)
_NO_MOMENTUM = (
    "the paper does not say whether RMSProp had momentum, as the authors' later code has (0.9)"
)
_NO_AVERAGE = (
    "the paper evaluates a running average of the parameters and does not say how long it remembers"
)
_NO_WARMUP = (
    "the number of epochs; the command leaves it to the default of `train.py`, once 3 and now 5"
)
_ON_A_CARD = "timm's model card does not give it"

# Remarks.
_RAMP = (
    "TensorFlow's average remembers less at first: after n steps, its decay rate is "
    "min({0}, (1 + n) / (10 + n)), where `ema_momentum` is constant. The averages differ during "
    "roughly the first 10 / (1 - {0}) steps."
)
_EMA = (
    "The average is for evaluation in the source, which goes on training the weights themselves; "
    "Keras's `fit` replaces the weights by it at its end. Call `fit` once, or set "
    "`optimizer.use_ema = False` before training."
)
_MOVING_STATISTICS = (
    "The source averages the moving mean and variance of batch normalization, too; Keras averages "
    "trainable weights only."
)
_AVERAGING = (_EMA, _MOVING_STATISTICS)
_SUMMED = (
    "The loss of the source is a sum over the batch and the time steps; epsilon and any clipping "
    "limit are for the gradient of this sum."
)
_HUBER = (
    "TD errors are clipped to [-1, 1] in the source: use `keras.losses.Huber(delta=1.0)`, whose "
    "gradient is the same."
)
_IN_KERNELS = "Only the weights of convolutions and dense layers decay, which Keras calls kernels."
_BY_L2_LOSS = (
    "The decay is `amount * tf.nn.l2_loss(w)` in the loss of the source, that is "
    "`amount / 2 * sum(w**2)`; it is in the optimizer here, so give the layers no regularizers."
)

_TPU = "github.com/tensorflow/tpu, models/"
_EFFICIENTNET_CODE = Staircase(factor=0.97, epochs=2.4, warmup_epochs=5)
_EFFICIENTNET_REMARKS = (
    "The warm-up rises to the first rate; the decays that are due by then, 2, follow at once.",
    _BY_L2_LOSS,
    "All trainable weights but those of batch normalization decay, biases included.",
    _RAMP.format(0.9999),
    *_AVERAGING,
)

_IMAGES = (
    Recipe(
        name="inception_v3_paper",
        title="Inception v3 on ImageNet, as the paper says",
        source="Szegedy et al., arXiv:1512.00567 (2015)",
        convention="tf1",
        learning_rate=0.045,
        change=Staircase(factor=0.94, epochs=2),
        rho=0.9,
        momentum=None,
        epsilon=1.0,
        average=Average(momentum=None),
        clip=Clip(limit=2.0, kind=None),
        batch_size=32,
        unpublished={
            "momentum": _NO_MOMENTUM,
            "ema_momentum": _NO_AVERAGE,
            "clip": "the paper gives the threshold of the clipping of gradients, 2.0, not its "
            "kind; one of 'clipvalue', 'clipnorm' and 'global_clipnorm'",
        },
        remarks=(
            "The paper names TensorFlow, whose optimizer this is.",
            _EMA,
        ),
    ),
    Recipe(
        name="inception_v3",
        title="Inception v3 on ImageNet, TensorFlow models",
        source="github.com/tensorflow/models, research/inception, inception_train.py and "
        "inception_model.py",
        convention="tf1",
        learning_rate=0.1,
        change=Staircase(factor=0.16, epochs=30, whole_steps=True),
        rho=0.9,
        momentum=0.9,
        epsilon=1.0,
        weight_decay=WeightDecay(amount=4e-5, of="kernels"),
        average=Average(momentum=0.9999),
        batch_size=256,
        remarks=(
            "The rate is for batches of 256 on 8 GPUs; the source does not scale it.",
            _BY_L2_LOSS,
            _RAMP.format(0.9999),
            *_AVERAGING,
        ),
    ),
    Recipe(
        name="inception_v3_tpu",
        title="Inception v3 on ImageNet, TPU code",
        source=_TPU + "experimental/inception/inception_v3.py",
        convention="tf1",
        learning_rate=0.165,
        per_batch=256,
        change=Staircase(factor=0.94, epochs=3, whole_steps=True, floor=1e-4),
        rho=0.9,
        momentum=0.9,
        epsilon=1.0,
        weight_decay=WeightDecay(amount=4e-5, of="kernels"),
        average=Average(momentum=0.995),
        batch_size=1024,
        remarks=(_BY_L2_LOSS, _IN_KERNELS, _RAMP.format(0.995), *_AVERAGING),
    ),
    Recipe(
        name="inception_v4_paper",
        title="Inception v4 on ImageNet, as the paper says",
        source="Szegedy et al., arXiv:1602.07261 (2016)",
        convention="tf1",
        learning_rate=0.045,
        change=Staircase(factor=0.94, epochs=2),
        rho=0.9,
        momentum=None,
        epsilon=1.0,
        average=Average(momentum=None),
        unpublished={"momentum": _NO_MOMENTUM, "ema_momentum": _NO_AVERAGE},
        remarks=("The paper names TensorFlow, whose optimizer this is.", _EMA),
    ),
    Recipe(
        name="inception_v4_tpu",
        title="Inception v4 on ImageNet, TPU code",
        source=_TPU + "experimental/inception/inception_v4.py at 378ba88",
        convention="tf1",
        # The code divides its 0.15 by what the decays of the first 3 epochs would be.
        learning_rate=0.15 / 0.94 ** (3 / 2),
        per_batch=256,
        change=Staircase(
            factor=0.94,
            epochs=2,
            warmup_epochs=3,
            by_epoch=True,
            cold_epochs=1,
            cold_rate=1e-3,
            floor=1e-4,
        ),
        rho=0.9,
        momentum=0.9,
        epsilon=1.0,
        weight_decay=WeightDecay(amount=4e-5, of="kernels"),
        average=Average(momentum=0.995),
        batch_size=256,
        remarks=(
            "The rate is 0.15 / 0.94**1.5 = 0.1646. Epoch 0 has the rate 0.001, epochs 1 and 2 a "
            "third and two thirds of the first rate.",
            _BY_L2_LOSS,
            _IN_KERNELS,
            _RAMP.format(0.995),
            *_AVERAGING,
        ),
    ),
    Recipe(
        name="slim",
        title="the defaults of TF-Slim, for all its image classifiers",
        source="github.com/tensorflow/models, research/slim/train_image_classifier.py",
        convention="tf1",
        learning_rate=0.01,
        change=Staircase(factor=0.94, epochs=2, whole_steps=True),
        rho=0.9,
        momentum=0.9,
        epsilon=1.0,
        weight_decay=WeightDecay(amount=4e-5, of="kernels"),
        batch_size=32,
        remarks=(
            "Slim's networks choose what decays: kernels, and in MobileNets no depthwise ones.",
            _BY_L2_LOSS,
        ),
    ),
    Recipe(
        name="mobilenet_v1_tpu",
        title="MobileNet v1 on ImageNet, TPU code",
        source=_TPU + "official/mobilenet/mobilenet.py, and slim's mobilenet_v1.py for the decay",
        convention="tf1",
        learning_rate=0.165,
        per_batch=256,
        change=Staircase(factor=0.94, epochs=3, floor=1e-4),
        rho=0.9,
        momentum=0.9,
        epsilon=1.0,
        weight_decay=WeightDecay(amount=4e-5, of="kernels but depthwise ones"),
        average=Average(momentum=0.995),
        remarks=(_BY_L2_LOSS, _RAMP.format(0.995), *_AVERAGING),
    ),
    Recipe(
        name="mobilenet_v2_paper",
        title="MobileNet v2 on ImageNet, as the paper says",
        source="Sandler et al., arXiv:1801.04381 (2018)",
        convention="tf1",
        learning_rate=0.045,
        change=Staircase(factor=0.98, epochs=1),
        rho=0.9,
        momentum=0.9,
        epsilon=None,
        weight_decay=WeightDecay(amount=4e-5, form=None),
        batch_size=96,
        unpublished={
            "epsilon": 'the paper says "standard RMSPropOptimizer" only; the default of '
            "TensorFlow is 1e-10, that of slim, which the authors' code uses, 1.0",
            "weight_decay_form": _NO_FORM.format("mobilenet_v2_slim"),
        },
        remarks=("16 workers step asynchronously, which no optimizer imitates.",),
    ),
    Recipe(
        name="mobilenet_v2_slim",
        title="MobileNet v2 on ImageNet, the authors' command for TF-Slim",
        source="github.com/tensorflow/models, research/slim/nets/mobilenet/README.md",
        convention="tf1",
        learning_rate=0.045,
        per_batch=96,
        change=Staircase(factor=0.98, epochs=2.5, whole_steps=True),
        rho=0.9,
        momentum=0.9,
        epsilon=1.0,
        weight_decay=WeightDecay(amount=4e-5, of="kernels but depthwise ones"),
        average=Average(momentum=0.9999),
        batch_size=96,
        remarks=(
            "The command says 0.045 * NUM_GPUS and 2.5 / NUM_GPUS, because every GPU takes a batch "
            "of 96, and slim counts the epochs of one. Here `batch_size` is that of all GPUs, and "
            "epochs are those of the data.",
            _BY_L2_LOSS,
            _RAMP.format(0.9999),
            *_AVERAGING,
        ),
    ),
    *(
        Recipe(
            name=name,
            title=title,
            source="github.com/tensorflow/models, official/vision/configs, " + file,
            convention="tf_keras_legacy",
            learning_rate=0.008,
            per_batch=128,
            change=Staircase(
                factor=factor, epochs=2.5, whole_steps=True, warmup_epochs=5, warmup_meets=True
            ),
            rho=0.9,
            momentum=0.9,
            epsilon=0.002,
            weight_decay=WeightDecay(amount=1e-5, of="kernels but depthwise ones"),
            batch_size=4096,
            remarks=(
                "The warm-up rises to the rate at its end, which has been decayed twice.",
                "TensorFlow's Keras 2 starts the average of squares from 0, unlike TF1.",
                _BY_L2_LOSS,
            ),
        )
        for name, title, file, factor in (
            (
                "mobilenet_v1_garden",
                "MobileNet v1 on ImageNet, TensorFlow Model Garden",
                "imagenet_mobilenetv1_tpu.yaml",
                0.94,
            ),
            (
                "mobilenet_v2_garden",
                "MobileNet v2 on ImageNet, TensorFlow Model Garden",
                "imagenet_mobilenetv2_tpu.yaml",
                0.96,
            ),
            (
                "mobilenet_garden",
                "MobileNets on ImageNet, the default of the TensorFlow Model Garden",
                "image_classification.py, `mobilenet_imagenet`",
                0.98,
            ),
        )
    ),
    Recipe(
        name="mobilenet_v3_paper",
        title="MobileNet v3 on ImageNet, as the paper says",
        source="Howard et al., arXiv:1905.02244 (2019)",
        convention="tf1",
        learning_rate=0.1,
        change=Staircase(factor=None, epochs=3),
        rho=None,
        momentum=0.9,
        epsilon=None,
        weight_decay=WeightDecay(amount=1e-5),
        average=Average(momentum=0.9999),
        batch_size=4096,
        unpublished={
            "rho": "the paper does not give it; TensorFlow's default is 0.9",
            "epsilon": "the paper does not give it; TensorFlow's default is 1e-10",
            "decay_rate": 'the paper says "decay rate of 0.01 every 3 epochs", which '
            "may mean that the rate is multiplied by 0.99 or by 0.01",
        },
        remarks=("The paper does not say which weights decay; here all do.", _EMA),
    ),
    Recipe(
        name="mobilenet_v3_torchvision",
        title="MobileNet v3 on ImageNet, torchvision",
        source="github.com/pytorch/vision, references/classification/train.py, for RMSprop; "
        "mmpretrain, mobilenet-v3-large_8xb128_in1k.py, for rate and schedule",
        convention="torch",
        learning_rate=0.064,
        change=Staircase(factor=0.973, epochs=2),
        rho=0.9,
        momentum=0.9,
        epsilon=0.0316,
        weight_decay=WeightDecay(amount=1e-5),
        batch_size=1024,
        remarks=(
            "0.0316 outside the root stands for 0.001 inside, which it equals where the average of "
            "squares is small or large; between, steps are up to 29 % shorter.",
        ),
    ),
    Recipe(
        name="mobilenet_v3_timm",
        title="MobileNet v3 (large) on ImageNet, timm",
        source="github.com/huggingface/pytorch-image-models, hfdocs/source/training_script.mdx",
        convention="timm",
        learning_rate=0.064,
        change=Staircase(
            factor=0.973, epochs=2.4, warmup_epochs=None, warmup_start=1e-6, by_epoch=True
        ),
        rho=0.9,
        momentum=0.9,
        epsilon=0.001,
        weight_decay=WeightDecay(amount=1e-5, of="all but biases and normalization"),
        average=Average(momentum=0.9999),
        batch_size=1024,
        unpublished={"warmup_epochs": _NO_WARMUP},
        remarks=(
            "The command adds noise to the rate between 42 % and 90 % of the epochs "
            "(`--lr-noise 0.42 0.9`), which the schedule does not.",
            *_AVERAGING,
        ),
    ),
    Recipe(
        name="mnasnet_paper",
        title="MnasNet on ImageNet, as the paper says",
        source="Tan et al., arXiv:1807.11626 (2018)",
        convention="tf1",
        learning_rate=0.256,
        change=Staircase(factor=0.97, epochs=2.4, warmup_epochs=5),
        rho=0.9,
        momentum=0.9,
        epsilon=None,
        weight_decay=WeightDecay(amount=1e-5, form=None),
        batch_size=4096,
        unpublished={
            "epsilon": _NO_EPSILON.format("mnasnet", 0.001),
            "weight_decay_form": _NO_FORM.format("mnasnet"),
            "decay_counts_from": _NO_DECAY_START,
        },
        remarks=("The paper does not say which weights decay; here all do.",),
    ),
    Recipe(
        name="mnasnet",
        title="MnasNet on ImageNet, the authors' TPU code",
        source=_TPU + "official/mnasnet, mnasnet_main.py; its schedule and optimizer are those of "
        "official/efficientnet/utils.py",
        convention="tf1",
        learning_rate=0.016,
        per_batch=256,
        change=_EFFICIENTNET_CODE,
        rho=0.9,
        momentum=0.9,
        epsilon=0.001,
        weight_decay=WeightDecay(amount=1e-5, of="all but normalization"),
        average=Average(momentum=0.9999),
        batch_size=1024,
        remarks=_EFFICIENTNET_REMARKS,
    ),
    Recipe(
        name="efficientnet_paper",
        title="EfficientNet on ImageNet, as the paper says",
        source="Tan and Le, arXiv:1905.11946 (2019)",
        convention="tf1",
        learning_rate=0.256,
        change=Staircase(factor=0.97, epochs=2.4),
        rho=0.9,
        momentum=0.9,
        epsilon=None,
        weight_decay=WeightDecay(amount=1e-5, form=None),
        unpublished={
            "epsilon": _NO_EPSILON.format("efficientnet", 0.001),
            "weight_decay_form": _NO_FORM.format("efficientnet"),
        },
        remarks=(
            "The paper mentions no warm-up and no average of the weights; the authors' code has "
            "both.",
            "The paper does not say which weights decay; here all do.",
        ),
    ),
    Recipe(
        name="efficientnet",
        title="EfficientNet on ImageNet, the authors' TPU code",
        source=_TPU + "official/efficientnet, main.py and utils.py",
        convention="tf1",
        learning_rate=0.016,
        per_batch=256,
        change=_EFFICIENTNET_CODE,
        rho=0.9,
        momentum=0.9,
        epsilon=0.001,
        weight_decay=WeightDecay(amount=1e-5, of="all but normalization"),
        average=Average(momentum=0.9999),
        batch_size=2048,
        remarks=_EFFICIENTNET_REMARKS,
    ),
    Recipe(
        name="efficientnet_v2_paper",
        title="EfficientNetV2 on ImageNet, as the paper says",
        source="Tan and Le, arXiv:2104.00298 (2021)",
        convention="tf1",
        learning_rate=0.256,
        change=Staircase(factor=0.97, epochs=2.4, warmup_epochs=None),
        rho=0.9,
        momentum=0.9,
        epsilon=None,
        weight_decay=WeightDecay(amount=1e-5, form=None),
        average=Average(momentum=0.9999),
        batch_size=4096,
        unpublished={
            "epsilon": _NO_EPSILON.format("efficientnet", 0.001),
            "weight_decay_form": _NO_FORM.format("efficientnet"),
            "warmup_epochs": "the paper warms the rate up from 0 and does not say for how many "
            "epochs; `efficientnet` has 5",
            "decay_counts_from": _NO_DECAY_START,
        },
        remarks=("350 epochs.", "The paper does not say which weights decay; here all do.", _EMA),
    ),
    *(
        Recipe(
            name=name,
            title=f"EfficientNet-{size} on ImageNet, timm",
            source="github.com/huggingface/pytorch-image-models, hfdocs/source/training_script.mdx",
            convention="timm",
            learning_rate=rate,
            change=Staircase(
                factor=0.97, epochs=2.4, warmup_epochs=None, warmup_start=1e-6, by_epoch=True
            ),
            rho=0.9,
            momentum=0.9,
            epsilon=0.001,
            weight_decay=WeightDecay(amount=1e-5, of="all but biases and normalization"),
            average=average,
            batch_size=batch_size,
            unpublished={"warmup_epochs": _NO_WARMUP},
            remarks=remarks,
        )
        for name, size, rate, batch_size, average, remarks in (
            ("efficientnet_b0_timm", "B0", 0.048, 768, Average(momentum=0.9999), _AVERAGING),
            ("efficientnet_b2_timm", "B2", 0.016, 256, Average(momentum=0.9999), _AVERAGING),
            (
                "efficientnet_es_timm",
                "ES (EdgeTPU small)",
                0.064,
                1024,
                None,
                ("The published weights are the mean of the 8 best checkpoints.",),
            ),
        )
    ),
    Recipe(
        name="amoebanet_tpu",
        title="AmoebaNet-D on ImageNet, TPU code",
        source=_TPU + "official/amoeba_net, amoeba_net.py, amoeba_net_model.py, model_builder.py",
        convention="tf1",
        learning_rate=0.64,
        change=Staircase(factor=0.9, epochs=1, warmup_epochs=3, floor=1e-4),
        rho=0.9,
        momentum=0.9,
        epsilon=1.0,
        weight_decay=WeightDecay(amount=4e-5, of="kernels"),
        average=Average(momentum=0.9999),
        batch_size=256,
        remarks=(
            "The warm-up rises to the first rate; the 3 decays that are due by then follow at "
            "once. The program's flags replace its hyperparameters (a rate of 0.015, clipping to a "
            "global norm of 10) by these, without clipping.",
            _BY_L2_LOSS,
            _IN_KERNELS,
            _RAMP.format(0.9999),
            *_AVERAGING,
        ),
    ),
    Recipe(
        name="nasnet_a_card",
        title="NASNet-A on ImageNet, from timm's model card",
        source="github.com/huggingface/pytorch-image-models, hfdocs/source/models/nasnet.mdx",
        convention="tf1",
        learning_rate=None,
        rho=None,
        momentum=0.9,
        epsilon=1.0,
        weight_decay=WeightDecay(amount=None, form=None),
        unpublished={
            "learning_rate": f"{_ON_A_CARD}; a number or a schedule",
            "rho": _ON_A_CARD,
            "weight_decay": "timm's model card says that there was weight decay, not how much",
            "weight_decay_form": "'coupled' or 'decoupled'; timm's model card does not say which",
        },
        remarks=("Its authors published it in TensorFlow, whose optimizer this is.",),
    ),
    Recipe(
        name="pnasnet_5_card",
        title="PNASNet-5 on ImageNet, from timm's model card",
        source="github.com/huggingface/pytorch-image-models, hfdocs/source/models/pnasnet.mdx",
        convention="tf1",
        learning_rate=None,
        rho=None,
        momentum=0.9,
        epsilon=None,
        weight_decay=WeightDecay(amount=None, form=None),
        batch_size=1600,
        unpublished={
            "learning_rate": "timm's model card gives a rate of 0.015, not how it changes; a "
            "number or a schedule",
            "rho": _ON_A_CARD,
            "epsilon": _ON_A_CARD,
            "weight_decay": "timm's model card says that there was weight decay, not how much",
            "weight_decay_form": "'coupled' or 'decoupled'; timm's model card does not say which",
        },
        remarks=("Its authors published it in TensorFlow, whose optimizer this is.",),
    ),
)

_DQN_ZOO = "github.com/google-deepmind/dqn_zoo, "
_A2C_RATE = (
    "The rate of the source falls with the number of time steps in the environment; `total_steps` "
    "is the number of updates."
)

_REINFORCEMENT = (
    Recipe(
        name="dqn_nature",
        title="DQN on Atari games, DeepMind's Lua code",
        source="github.com/kuz/DeepMind-Atari-Deep-Q-Learner, dqn/NeuralQLearner.lua and run_gpu, "
        "the code of Mnih et al., Nature 518 (2015) 529-533",
        convention="graves",
        learning_rate=2.5e-4,
        rho=0.95,
        epsilon=0.01,
        centered=True,
        batch_size=32,
        remarks=(
            "The gradient is the sum over 32 samples, to which epsilon refers: use a loss with "
            "`reduction='sum'`. For a mean, `dqn_zoo` has the same steps with 0.01 / 32**2.",
            'The "gradient momentum" of the paper is the decay rate of the average of gradients, '
            "which is rho here, not heavy-ball momentum.",
            _HUBER,
        ),
    ),
    Recipe(
        name="dqn_dopamine",
        title="DQN on Atari games, Dopamine (TensorFlow)",
        source="github.com/google/dopamine, dopamine/tf/agents/dqn/configs/dqn.gin",
        convention="tf1",
        learning_rate=2.5e-4,
        rho=0.95,
        epsilon=1e-5,
        centered=True,
        batch_size=32,
        remarks=(
            "The loss is a mean over the batch. The average of squares starts from 1; that of "
            "`dqn_nature` starts from 0.",
            _HUBER,
        ),
    ),
    Recipe(
        name="dqn_zoo",
        title="DQN and double Q on Atari games, DQN Zoo",
        source=_DQN_ZOO + "dqn_zoo/dqn/run_atari.py",
        convention="optax",
        learning_rate=2.5e-4,
        rho=0.95,
        epsilon=0.01 / 32**2,
        centered=True,
        batch_size=32,
        remarks=("The loss is a mean over the batch.", _HUBER),
    ),
    Recipe(
        name="dqn_zoo_prioritized",
        title="DQN with prioritized replay on Atari games, DQN Zoo",
        source=_DQN_ZOO + "dqn_zoo/prioritized",
        convention="optax",
        learning_rate=2.5e-4 / 4,
        rho=0.95,
        epsilon=0.01 / 32**2 / 16,
        centered=True,
        batch_size=32,
        remarks=("The loss is a mean over the batch.", _HUBER),
    ),
    Recipe(
        name="a3c",
        title="A3C on Atari games, as its authors told a reimplementer",
        source="an e-mail quoted in the wiki of github.com/muupan/async-rl, at second hand; Mnih "
        "et al., arXiv:1602.01783 (2016), equations 8 and 9, for the rule",
        convention="optax",
        learning_rate=7e-4,
        change=LinearToZero(),
        rho=0.99,
        epsilon=0.1,
        unpublished={
            "initial_square_average": "neither the paper nor the e-mail says from where the "
            "average of squares starts; optax starts from 0, TF1 from 1"
        },
        remarks=(
            "Threads step asynchronously and share the average of squares, which no optimizer "
            "imitates.",
        ),
    ),
    Recipe(
        name="impala",
        title="IMPALA on DeepMind Lab, the authors' code",
        source="github.com/google-deepmind/scalable_agent, experiment.py",
        convention="tf1",
        learning_rate=4.8e-4,
        change=LinearToZero(),
        rho=0.99,
        epsilon=0.1,
        remarks=(_A2C_RATE, _SUMMED),
    ),
    Recipe(
        name="impala_torchbeast",
        title="IMPALA on Atari games, TorchBeast",
        source="github.com/facebookresearch/torchbeast, torchbeast/monobeast.py",
        convention="torch",
        learning_rate=4.8e-4,
        change=LinearToZero(),
        rho=0.99,
        epsilon=0.01,
        clip=Clip(limit=40.0, kind="global_clipnorm"),
        batch_size=8,
        remarks=(
            _A2C_RATE,
            _SUMMED,
            "This epsilon, outside the root, is not that of `impala`: the root of 0.1 is 0.316.",
        ),
    ),
    Recipe(
        name="a2c_baselines",
        title="A2C on Atari games, OpenAI Baselines",
        source="github.com/openai/baselines, baselines/a2c/a2c.py",
        convention="tf1",
        learning_rate=7e-4,
        change=LinearToZero(),
        rho=0.99,
        epsilon=1e-5,
        clip=Clip(limit=0.5, kind="global_clipnorm"),
        remarks=(_A2C_RATE,),
    ),
    Recipe(
        name="acer_baselines",
        title="ACER on Atari games, OpenAI Baselines",
        source="github.com/openai/baselines, baselines/acer/acer.py",
        convention="tf1",
        learning_rate=7e-4,
        change=LinearToZero(),
        rho=0.99,
        epsilon=1e-5,
        clip=Clip(limit=10.0, kind="global_clipnorm"),
        remarks=(
            _A2C_RATE,
            "The average policy of ACER, with a decay rate of 0.99, is part of the algorithm, not "
            "of the optimizer.",
        ),
    ),
    Recipe(
        name="a2c_sb3",
        title="A2C, the default of Stable-Baselines3",
        source="github.com/DLR-RM/stable-baselines3, stable_baselines3/a2c/a2c.py",
        convention="torch",
        learning_rate=7e-4,
        rho=0.99,
        epsilon=1e-5,
        clip=Clip(limit=0.5, kind="global_clipnorm"),
        remarks=(
            "Its `RMSpropTFLike`, which one must ask for, starts the average of squares from 1 and "
            "has epsilon inside the root.",
        ),
    ),
    Recipe(
        name="pymarl",
        title="QMIX and other algorithms on StarCraft, PyMARL",
        source="github.com/oxwhirl/pymarl, src/config/default.yaml and src/learners",
        convention="torch",
        learning_rate=5e-4,
        rho=0.99,
        epsilon=1e-5,
        clip=Clip(limit=10.0, kind="global_clipnorm"),
    ),
)

_OTHERS = (
    Recipe(
        name="wgan",
        title="Wasserstein GAN, both networks, the authors' code",
        source="github.com/martinarjovsky/WassersteinGAN, main.py",
        convention="torch",
        learning_rate=5e-5,
        rho=0.99,
        epsilon=1e-8,
        batch_size=64,
        remarks=(
            "The weights of the critic are clipped to [-0.01, 0.01] before each of its steps. Give "
            "them a constraint that does so (`kernel_constraint`, `bias_constraint`), which acts "
            "after each step.",
            "Make one optimizer for each network.",
        ),
    ),
    Recipe(
        name="char_rnn",
        title="char-rnn on text",
        source="github.com/karpathy/char-rnn, train.lua, with torch/optim, rmsprop.lua",
        convention="torch",
        learning_rate=2e-3,
        change=Staircase(factor=0.97, epochs=1, delay_epochs=9),
        rho=0.95,
        epsilon=1e-8,
        clip=Clip(limit=5.0, kind="clipvalue"),
        batch_size=50,
        remarks=(
            "The rate falls for the first time after 10 epochs.",
            "The gradient is the sum over 50 characters of the means over the batch, and epsilon "
            "and the clipping limit are for it: multiply a loss that is the mean over both by 50.",
        ),
    ),
    Recipe(
        name="graves_handwriting",
        title="handwriting synthesis with LSTMs",
        source="Graves, arXiv:1308.0850 (2013), equations 38 to 45",
        convention="graves",
        learning_rate=1e-4,
        rho=0.95,
        momentum=0.9,
        epsilon=1e-4,
        centered=True,
        remarks=(
            "During backpropagation, where no optimizer acts, the derivatives with respect to the "
            "outputs are clipped to [-100, 100], and those of the LSTMs to [-10, 10].",
        ),
    ),
    *(
        Recipe(
            name=f"keras_{example}",
            title=f"the example {example}.py of Keras 2.3.1",
            source=f"github.com/keras-team/keras at 2.3.1, examples/{example}.py",
            convention="tf_keras_legacy",
            learning_rate=rate,
            change=change,
            rho=0.9,
            epsilon=1e-7,
            remarks=("Keras 2.3.1 adds epsilon outside the root, Keras 3 inside.",),
        )
        for example, rate, change in (
            ("lstm_text_generation", 1e-2, Constant()),
            ("cifar10_cnn", 1e-4, InverseTime(decay=1e-6)),
            ("mnist_mlp", 1e-3, Constant()),
        )
    ),
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*_IMAGES, *_REINFORCEMENT, *_OTHERS)
}
