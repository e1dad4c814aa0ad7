"""A Llama-family model in terms of the ops: its config, weights, adapters and forward."""
