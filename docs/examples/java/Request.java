import com.google.gson.Gson;
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

/**
 * Asks for the deletion of a user's conversation groups and waits until each of them has an end.
 *
 * <pre>
 * mvn --quiet dependency:copy-dependencies
 * AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f java -cp 'target/dependency/*' Request.java user15 test0 test1
 * </pre>
 *
 * Exits with 0 if all groups are erased, else with 1.
 */
public final class Request {
    /** Who asks: the last word of the answers' routing keys. */
    private static final String APP = "billing";
    private static final long TIMEOUT_MS = 60_000;
    private static final List<String> ERASED = List.of("deleted", "gone");
    private static final Gson JSON = new Gson();

    private record Outcome(Data data) {}
    private record Data(Asked request, String status, int groups, int remaining, List<Result> results) {}
    private record Asked(String id) {}
    private record Result(int index, String outcome) {}

    public static void main(String[] args) throws Exception {
        if (args.length < 2) {
            System.err.println("usage: Request USER GROUP...");
            System.exit(1);
        }
        String status = run(args[0], Arrays.asList(args).subList(1, args.length));
        System.out.println(status);
        System.exit(status.equals("erased") ? 0 : 1);
    }

    private static String run(String user, List<String> groups) throws Exception {
        var factory = new ConnectionFactory();
        factory.setUri(System.getenv().getOrDefault("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"));
        // It would not bring back the queue of this one request's answers.
        factory.setAutomaticRecoveryEnabled(false);
        String request = UUID.randomUUID().toString();
        try (var connection = factory.newConnection(); var channel = connection.createChannel()) {
            // Bound before the request is published, so that no answer is missed. A service has one durable queue
            // that outlives it instead.
            String answers = APP + ".answers." + request;
            channel.queueDeclare(answers, false, true, true, null);
            channel.queueBind(answers, "convgroup.outcomes", "*." + APP);
            var deliveries = new LinkedBlockingQueue<Delivery>();
            channel.basicConsume(answers, false, (tag, delivery) -> deliveries.add(delivery), tag -> {});
            System.out.println("request " + request);
            ask(channel, request, user, groups);
            return waitFor(channel, deliveries, request);
        }
    }

    /** Publishes a request. The broker's confirm says that it is kept, not that it is done. */
    private static void ask(Channel channel, String request, String user, List<String> groups) throws Exception {
        var returned = new AtomicReference<String>();
        channel.addReturnListener(back -> returned.set(back.getReplyText())); // comes before the confirm
        channel.confirmSelect();
        var properties = new AMQP.BasicProperties.Builder()
                .deliveryMode(2)
                .contentType("application/json")
                .messageId(request)
                .timestamp(new Date())
                .appId(APP)
                .build();
        var body = JSON.toJson(Map.of("From_Account", user, "GroupName", groups));
        channel.basicPublish("convgroup", "delete", true, properties, body.getBytes(StandardCharsets.UTF_8));
        channel.waitForConfirmsOrDie(10_000); // throws when the broker refuses
        if (returned.get() != null) {
            throw new IllegalStateException("the request was returned: " + returned.get());
        }
    }

    /** Takes answers from the queue until the request is closed or the time is over. */
    private static String waitFor(Channel channel, BlockingQueue<Delivery> deliveries, String request)
            throws Exception {
        var ends = new HashMap<Integer, String>(); // how each group ended, by its place in GroupName
        long deadline = System.currentTimeMillis() + TIMEOUT_MS;
        while (true) {
            var delivery = deliveries.poll(deadline - System.currentTimeMillis(), TimeUnit.MILLISECONDS);
            if (delivery == null) {
                return "open";
            }
            var data = JSON.fromJson(new String(delivery.getBody(), StandardCharsets.UTF_8), Outcome.class).data();
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            if (!data.request().id().equals(request)) {
                continue; // the queue gets the app's other answers, too
            }
            System.out.println("outcome: " + data.status() + ", " + data.remaining() + " remaining");
            if (data.status().equals("malformed")) {
                return "malformed";
            }
            for (var result : data.results()) {
                // An answer can come twice, and what is erased stays erased.
                ends.merge(result.index(), result.outcome(), (old, now) -> ERASED.contains(old) ? old : now);
            }
            if (ends.size() >= data.groups()) {
                long erased = ends.values().stream().filter(ERASED::contains).count();
                return erased == ends.size() ? "erased" : erased > 0 ? "mixed" : "failed";
            }
        }
    }
}
