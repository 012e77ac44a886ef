"""Side by side with the libraries: `python -m smol.bench`.

One process, the contestants in turn, round after round, so that what else the machine does hits
all of them alike; equal results first, then medians and spreads, then ratios. A speed by itself
says more about the machine than about the code. What is measured is printed and written at once:
with `--seconds` there are fewer rounds, and what takes long to compile is left out, with its
reason. Given a folder, the results of a GPU go to gpu/ITS-NAME there.

- `timing`: the rounds, and what this machine can do at most: matrix products, reads, memory
- `tokenizer`: training and encoding, ours beside the Rust library's
- `train`: one training step, an improvement at a time, beside transformers' model
- `decode`: decode and prefill, beside transformers and llama.cpp, and under the roofline
- `llama`: llama.cpp's server, where it is installed
- `parity`, `patient`: what the ladder and weaker checks see of planted bugs, in small models that
  `patient` trains and in the real one
- `answers`: what the shipped models answer, and what it has cost them
- `traps`: what each mistake of fine-tuning costs a small model, in right answers
- `series`: the notebooks' times
- `preferences`: DPO and the policy gradient beside the best policy, where that one is known
- `heads`: a command of its own: when, in a run, heads come that look back
- `cuda`: `bench gpu`, all that a CUDA GPU is to show, in under five minutes
- `gpu`: `bench gpu_train`, SmolLM2-135M's shape trained for a minute or two on the GPU here
- `__main__`: the command line, and what is stored of the machine
"""
