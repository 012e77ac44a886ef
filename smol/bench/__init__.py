"""Side by side with the libraries: `python -m smol.bench`.

One process, the contestants in turn, round after round, so that what else the machine does hits
all of them alike; equal results first, then medians and spreads, then ratios. A speed by itself
says more about the machine than about the code.

- `timing`: the rounds, and what this machine can do at most: matrix products, reads, memory
- `tokenizer`: training and encoding, ours beside the Rust library's
- `train`: one training step, an improvement at a time, beside transformers' model
- `decode`: decode and prefill, beside transformers and under the roofline
- `parity`, `patient`: what the ladder and weaker checks see of planted bugs, in small models that
  `patient` trains and in the real one
- `series`: the notebooks' times
- `heads`: a command of its own: when, in a run, heads come that look back
- `gpu`: a command of its own: SmolLM2-135M's shape trained for a minute or two on the GPU here
- `__main__`: the command line, and what is stored of the machine
"""
