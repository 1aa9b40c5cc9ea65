"""Asks for the deletion of a user's conversation groups and waits until each of them has an end.

    pip install pika
    AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f python request.py user15 test0 test1

Exits with 0 if all groups are erased, else with 1.
"""
import json
import os
import sys
import time
import uuid

import pika

APP = "billing"  # who asks: the last word of the answers' routing keys
TIMEOUT = 60  # seconds
ERASED = ("deleted", "gone")


def ask(channel, request, user, groups):
    """Publishes a request. The broker's confirm says that it is kept, not that it is done."""
    channel.confirm_delivery()
    channel.basic_publish(  # waits; raises UnroutableError or NackError
        exchange="convgroup",
        routing_key="delete",
        body=json.dumps({"From_Account": user, "GroupName": groups}),
        properties=pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent.value,
            content_type="application/json",
            message_id=request,
            timestamp=int(time.time()),
            app_id=APP,
        ),
        mandatory=True,
    )


def wait(channel, answers, request):
    """Takes answers from the queue until the request is closed or the time is over."""
    ends = {}  # how each group ended, by its place in GroupName
    deadline = time.monotonic() + TIMEOUT
    for method, _, body in channel.consume(answers, inactivity_timeout=1):
        if method is not None:
            data = json.loads(body)["data"]
            channel.basic_ack(method.delivery_tag)
            if data["request"]["id"] == request:  # the queue gets the app's other answers, too
                print(f"outcome: {data['status']}, {data['remaining']} remaining")
                if data["status"] == "malformed":
                    return "malformed"
                for result in data["results"]:
                    if ends.get(result["index"]) not in ERASED:  # an answer can come twice
                        ends[result["index"]] = result["outcome"]
                if len(ends) >= data["groups"]:
                    erased = sum(end in ERASED for end in ends.values())
                    return "erased" if erased == len(ends) else "mixed" if erased else "failed"
        if time.monotonic() > deadline:
            return "open"


def main(user, groups):
    request = str(uuid.uuid4())
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        # Bound before the request is published, so that no answer is missed. A service has one durable queue
        # that outlives it instead.
        answers = f"{APP}.answers.{request}"
        channel.queue_declare(answers, exclusive=True)
        channel.queue_bind(answers, exchange="convgroup.outcomes", routing_key=f"*.{APP}")
        print(f"request {request}")
        ask(channel, request, user, groups)
        status = wait(channel, answers, request)
    print(status)
    return 0 if status == "erased" else 1


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: request.py USER GROUP...")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
