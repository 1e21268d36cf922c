"""Topologies, fitting, tracking and export."""

import os

# TensorFlow reads it when first imported: errors only, its start-up notes are not for users.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Convolutions by oneDNN: TensorFlow's default on some processors only, and faster on the others, too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
