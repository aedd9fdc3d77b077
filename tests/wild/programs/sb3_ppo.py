"""stable-baselines3, PPO with a CheckpointCallback."""
# requires stable-baselines3

import argparse
import hashlib

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

TOTAL = 8192


class PrintSteps(BaseCallback):
    def _on_step(self):
        if self.num_timesteps % 256 == 0:
            print("step", self.num_timesteps, flush=True)
        return True


parser = argparse.ArgumentParser()
parser.add_argument("--resume", help="the .zip of an agent to train on")
args = parser.parse_args()
env = make_vec_env("CartPole-v1", seed=0)
if args.resume:
    agent = PPO.load(args.resume, env=env)
else:
    agent = PPO("MlpPolicy", env, n_steps=512, n_epochs=4, seed=0, device="cpu")
callbacks = [PrintSteps(), CheckpointCallback(save_freq=1024, save_path="checkpoints")]
agent.learn(TOTAL - agent.num_timesteps, callback=callbacks, reset_num_timesteps=False)
weights = b"".join(value.numpy().tobytes() for value in agent.policy.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], agent.num_timesteps)
