"""Learning rates that change while a program runs."""

from pathlib import Path
from typing import Any

from tests.optimizer.scenarios import scenario
from tests.tools import models


@scenario()
def the_rate_is_changed_between_two_fits(RMSprop: Any, folder: Path) -> Any:
    model = models.model()
    models.fit(model, RMSprop(0.01))
    model.optimizer.learning_rate = 0.001
    return models.go_on(model)
