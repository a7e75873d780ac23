// A job in Java 17, with the JDK alone: lists the targets of Logs Routing CALLS times. Run it with: java JavaJob.java
import java.net.*; import java.net.http.*; import java.time.*; import java.util.*; import java.util.regex.*;

class JavaJob {
    static final Map<String, String> env = System.getenv();
    static String cached; static Instant readAgain = Instant.EPOCH;

    static HttpResponse<String> send(String url, HttpRequest.Builder request) throws Exception {
        return HttpClient.newHttpClient().send(request.uri(URI.create(url)).timeout(Duration.ofSeconds(10)).build(), HttpResponse.BodyHandlers.ofString());
    }
    static HttpRequest.Builder as(String token) { return HttpRequest.newBuilder().header("Authorization", "Bearer " + token); }
    static String find(String pattern, int status, String text) {
        Matcher found = Pattern.compile(pattern).matcher(text);
        if (status != 200 || !found.find()) throw new IllegalStateException("HTTP " + status + ", or no token");
        return found.group(1);
    }
    // The stored token (format raw): kept until a minute before it expires, for 5 minutes at most.
    static String token(boolean fresh) throws Exception {
        if (!fresh && Instant.now().isBefore(readAgain)) return cached;
        String form = "grant_type=urn:ibm:params:oauth:grant-type:apikey&apikey=" + URLEncoder.encode(env.get("READER_APIKEY"), "UTF-8");
        var own = send(env.get("IAM_URL") + "/identity/token", HttpRequest.newBuilder().POST(HttpRequest.BodyPublishers.ofString(form)).header("Content-Type", "application/x-www-form-urlencoded"));
        var version = send(env.get("SECRETS_MANAGER_URL") + "/api/v2/secrets/" + env.get("TOKEN_SECRET") + "/versions/current", as(find("\"access_token\"\\s*:\\s*\"([^\"]+)", own.statusCode(), own.body())));
        cached = find("\"payload\"\\s*:\\s*\"([\\w-]+\\.[\\w-]+\\.[\\w-]+)\"", version.statusCode(), version.body());
        String claims = new String(Base64.getUrlDecoder().decode(cached.split("\\.")[1]));
        Instant expires = Instant.ofEpochSecond(Long.parseLong(find("\"exp\"\\s*:\\s*(\\d+)", 200, claims)));
        if (!expires.isAfter(Instant.now())) { System.err.println("Java job: the stored token has expired: find out why the rotator does not run"); System.exit(3); }
        readAgain = Collections.min(List.of(expires.minusSeconds(60), Instant.now().plusSeconds(300)));
        return cached;
    }
    public static void main(String[] args) throws InterruptedException {
        for (String name : List.of("READER_APIKEY", "IAM_URL", "SECRETS_MANAGER_URL", "TOKEN_SECRET", "LOGS_ROUTING_URL")) if (env.getOrDefault(name, "").isEmpty()) { System.err.println("Java job: " + name + " is not set"); System.exit(1); }
        for (int call = 0; call < Integer.parseInt(env.getOrDefault("CALLS", "10")); call++, Thread.sleep(2000)) try {
            int status = send(env.get("LOGS_ROUTING_URL") + "/v3/targets", as(token(false))).statusCode();
            if (status == 401) status = send(env.get("LOGS_ROUTING_URL") + "/v3/targets", as(token(true))).statusCode(); // replaced? Read it again, once
            if (status != 200) throw new IllegalStateException("HTTP " + status);
            System.out.println("Java job: Logs Routing answered 200");
        } catch (Exception e) { // other messages may repeat what was received
            System.err.println("Java job: " + (e instanceof IllegalStateException ? e.getMessage() : "no usable answer"));
            System.exit(1);
        } } }
