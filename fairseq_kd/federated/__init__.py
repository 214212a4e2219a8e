"""Federated training on Flower: `run` is the command, `app` holds ServerApp and ClientApp for a real federation."""
