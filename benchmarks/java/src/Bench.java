import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.networknt.schema.JsonSchema;
import com.networknt.schema.JsonSchemaFactory;
import com.networknt.schema.SpecVersion;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;

/** The two jobs on Kafka Streams: its DSL, exactly_once_v2, one thread. Other settings are its defaults. */
public final class Bench {
    /** What became of one event: a dead letter where decision is null. */
    record Outcome(byte[] raw, String decision, byte[] value, byte[] action) {}

    interface Work {
        Outcome apply(byte[] value);
    }

    static final ObjectMapper JSON = new ObjectMapper();

    /** Arguments: address, job, input topic, prefix of the output topics, the job's folder, a folder for state. */
    public static void main(String[] args) throws Exception {
        String job = args[1], input = args[2], prefix = args[3];
        boolean acts = job.equals("full");
        Work work = acts ? new Full(Path.of(args[4])) : Bench::small;

        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, prefix);
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        config.put(StreamsConfig.STATE_DIR_CONFIG, args[5]);
        config.put("auto.offset.reset", "earliest");

        Serde<byte[]> bytes = Serdes.ByteArray();
        Produced<byte[], byte[]> produced = Produced.with(bytes, bytes);
        StreamsBuilder builder = new StreamsBuilder();
        KStream<byte[], Outcome> outcomes =
            builder.stream(input, Consumed.with(bytes, bytes)).mapValues(work::apply);
        outcomes.filter((key, one) -> one.decision() != null)
            .mapValues(Outcome::value).to(prefix + ".decisions", produced);
        if (acts) {
            outcomes.filter((key, one) -> one.decision() == null)
                .mapValues(Outcome::raw).to(prefix + ".dead-letter", produced);
            Map.of("approve", ".approvals", "decline", ".declines", "review", ".review").forEach((decision, topic) ->
                outcomes.filter((key, one) -> decision.equals(one.decision()))
                    .mapValues(Outcome::action).to(prefix + topic, produced));
        }
        try (KafkaStreams streams = new KafkaStreams(builder.build(), config)) {
            CountDownLatch stop = new CountDownLatch(1);
            streams.setUncaughtExceptionHandler(error -> {
                error.printStackTrace();
                return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.setStateListener((state, before) -> {
                if (state == KafkaStreams.State.ERROR) {
                    stop.countDown();
                }
            });
            Runtime.getRuntime().addShutdownHook(new Thread(stop::countDown));
            streams.start();
            stop.await();
        }
    }

    static Outcome small(byte[] value) {
        try {
            JsonNode event = JSON.readTree(value);
            Verdict verdict = new Verdict();
            verdict.rule("large", "decline", "S01", event.get("amount").asDouble() > 900.0);
            verdict.rule("young-abroad", "decline", "S02",
                event.get("age_days").asLong() < 30 && !event.get("country").asText().equals("NL"));
            verdict.rule("rest", "approve", null, true);
            byte[] record = JSON.writeValueAsBytes(verdict.record(event));
            return new Outcome(value, verdict.decision, record, null);
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    /** The rules that matched, in order; the first decides. */
    static final class Verdict {
        final ArrayNode rules = JSON.createArrayNode();
        final ArrayNode reasons = JSON.createArrayNode();
        String decision;
        String first;

        void rule(String id, String decides, String reason, boolean matches) {
            if (!matches) {
                return;
            }
            if (decision == null) {
                decision = decides;
                first = id;
            }
            rules.add(id);
            if (reason != null) {
                reasons.add(reason);
            }
        }

        ObjectNode record(JsonNode event) {
            ObjectNode record = JSON.createObjectNode();
            record.set("id", event.get("id"));
            record.put("decision", decision).put("rule", first);
            record.set("rules", rules);
            record.set("reasons", reasons);
            return record;
        }
    }

    /** Contract, features, model, rules. */
    static final class Full implements Work {
        static final List<String> NAMES = List.of(
            "ratio", "left_over", "abroad", "online", "risky", "young", "retries", "basket", "jump", "night");
        final OrtEnvironment environment = OrtEnvironment.getEnvironment();
        final OrtSession session;
        final JsonSchema schema;

        Full(Path folder) throws IOException, OrtException {
            schema = JsonSchemaFactory.getInstance(SpecVersion.VersionFlag.V202012)
                .getSchema(Files.readString(folder.resolve("event.schema.json")));
            OrtSession.SessionOptions options = new OrtSession.SessionOptions();
            options.setIntraOpNumThreads(1);
            session = environment.createSession(folder.resolve("model.onnx").toString(), options);
        }

        @Override
        public Outcome apply(byte[] value) {
            try {
                JsonNode event = JSON.readTree(value);
                if (!schema.validate(event).isEmpty()) {
                    return new Outcome(value, null, null, null);
                }
                return decide(value, event);
            } catch (JsonProcessingException error) {
                return new Outcome(value, null, null, null);
            } catch (IOException | OrtException error) {
                throw new IllegalStateException(error);
            }
        }

        Outcome decide(byte[] value, JsonNode event) throws IOException, OrtException {
            double amount = event.get("amount").asDouble(), limit = event.get("limit").asDouble();
            long attempts = event.get("attempts").asLong(), items = event.get("items").asLong();
            long age = event.get("card").get("age_days").asLong();
            String category = event.get("category").asText(), channel = event.get("channel").asText();
            JsonNode previous = event.get("previous");
            double before = previous == null || previous.isNull() ? 50.0 : previous.asDouble();
            double ratio = amount / limit, left = (event.get("balance").asDouble() - amount) / limit;
            double abroad = event.get("country").asText().equals(event.get("home").asText()) ? 0.0 : 1.0;
            double online = channel.equals("online") ? 1.0 : 0.0;
            double risky = category.equals("gift") || category.equals("crypto") ? 1.0 : 0.0;
            double young = 1.0 / (1.0 + age / 30.0), retries = Math.min(attempts, 5) / 5.0;
            double basket = amount / Math.max(items, 1) / 100.0, jump = amount / Math.max(before, 1.0);
            double night = event.get("time").asLong() / 3_600_000L % 24 < 6 ? 1.0 : 0.0;
            double[] features = {ratio, left, abroad, online, risky, young, retries, basket, jump, night};
            double score = score(features);

            Verdict verdict = new Verdict();
            verdict.rule("over-limit", "decline", "R01", ratio > 1);
            verdict.rule("certain", "decline", "R02", score > 0.95);
            verdict.rule("crypto-abroad", "decline", "R03", category.equals("crypto") && abroad == 1);
            verdict.rule("many-tries", "decline", "R04", attempts > 6);
            verdict.rule("broke", "decline", "R05", left < -0.5);
            verdict.rule("new-card-large", "review", "R06", age < 7 && amount > 400);
            verdict.rule("likely", "review", "R07", score > 0.8);
            verdict.rule("night-cash", "review", "R08", night == 1 && channel.equals("atm") && amount > 300);
            verdict.rule("big-jump", "review", "R09", jump > 25);
            verdict.rule("gift-run", "review", "R10", category.equals("gift") && items > 8);
            verdict.rule("online-abroad-new", "review", "R11", online == 1 && abroad == 1 && young > 0.6);
            verdict.rule("unlikely-pair", "review", "R12", score > 0.5 && retries > 0.5);
            verdict.rule("empty-basket", "review", "R13", items == 0 && amount > 600);
            verdict.rule("brand-limit", "review", "R14",
                event.get("card").get("brand").asText().equals("amex") && ratio > 0.9);
            verdict.rule("small", "approve", "R15", amount < 20);
            verdict.rule("groceries", "approve", "R16",
                (category.equals("grocery") || category.equals("fuel")) && ratio < 0.3);
            verdict.rule("known", "approve", "R17", age > 1000 && score < 0.3);
            verdict.rule("at-home", "approve", "R18", abroad == 0 && channel.equals("shop"));
            verdict.rule("low-score", "approve", "R19", score < 0.1);
            verdict.rule("rest", "approve", "R20", true);

            ObjectNode record = verdict.record(event).put("score", score);
            ObjectNode named = record.putObject("features");
            for (int i = 0; i < features.length; i++) {
                named.put(NAMES.get(i), features[i]);
            }
            byte[] encoded = JSON.writeValueAsBytes(record);
            return new Outcome(value, verdict.decision, encoded,
                verdict.decision.equals("review") ? item(record, event) : encoded);
        }

        static byte[] item(ObjectNode record, JsonNode event) throws IOException {
            ObjectNode item = JSON.createObjectNode();
            item.set("decision", record);
            item.set("event", event);
            return JSON.writeValueAsBytes(item);
        }

        double score(double[] features) throws OrtException {
            float[] row = new float[features.length];
            for (int i = 0; i < row.length; i++) {
                row[i] = (float) features[i];
            }
            try (OnnxTensor tensor = OnnxTensor.createTensor(environment, FloatBuffer.wrap(row), new long[] {1, row.length});
                 OrtSession.Result result = session.run(Map.of("features", tensor))) {
                return ((float[][]) result.get(0).getValue())[0][0];
            }
        }
    }
}
