"""The script that all runs of `make chaos` train: it counts, saves, and now and then fails or tears a checkpoint.

A checkpoint's name tells whether it is whole, and each name is written once, so that what a resume must choose can be
told afterwards from the output alone.
"""

TRAINER = """
import json, os, random, signal, subprocess, sys, time

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
run_id, session = os.environ["BACKPROP_RUN_ID"], os.environ["BACKPROP_SESSION"]
target = int(options["--target"])
rng = random.Random(f"{run_id}/{session}")
if "--stubborn" in options:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
counter, path = 0, os.environ.get("BACKPROP_RESUME_FROM")


def tell(**event):
    print(json.dumps(event), flush=True)


def save(is_torn):
    name = f"{run_id}-s{session}-{counter}" + ("-torn.json" if is_torn else ".json")
    text = json.dumps({"counter": counter})
    with open(name + ".new", "w") as file:
        file.write(text[:-3] if is_torn else text)
    os.rename(name + ".new", name)
    tell(event="checkpoint_saved", path=name, step=counter)


try:
    if path:
        counter = json.load(open(path))["counter"]
    tell(event="started", **{"from": counter}, path=path)
    if "--child" in options:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    crash_at = counter + rng.randrange(20, 400) if rng.random() < float(options.get("--crash", "0")) else None
    while counter < target:
        counter += 1
        print(json.dumps({"step": counter, "value": counter * 3}))
        if counter % 50 == 0:
            save(is_torn=rng.random() < 0.2)
        if counter == crash_at:
            tell(event="crashing", code=3)
            sys.exit(3)
        time.sleep(0.004)
    tell(event="counted", counter=counter)
except KeyboardInterrupt:
    save(is_torn=False)
"""
