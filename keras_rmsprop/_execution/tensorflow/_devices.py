"""Devices, and whether XLA compiles for them."""

import functools

import tensorflow as tf

# The errors that TensorFlow raises if XLA does not support a graph, a dtype or a device.
NOT_COMPILABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.NotFoundError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
)


@functools.cache
def default_device() -> str:
    """Return the device on which ops run by default."""
    with tf.init_scope(), tf.device(None):
        return tf.zeros(()).device


@functools.cache
def has_xla(device: str) -> bool:
    """Whether XLA can compile for the device; a step in a graph would fail only when it runs."""
    try:
        with tf.init_scope(), tf.device(device):
            tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))
    except NOT_COMPILABLE:
        return False
    return True
