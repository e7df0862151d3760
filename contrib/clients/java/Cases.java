import java.util.List;
import java.util.Map;

/** What every Java client's program shares: see python/cases.py. */
final class Cases {
    static final String BASE = System.getenv("BASE"), MODEL = System.getenv("MODEL");
    static final String AGENT_BASE = System.getenv("AGENT_BASE"), AGENT_MODEL = System.getenv("AGENT_MODEL");
    static final String QUESTION = "Tell me a story about a fox.", ASK_WEATHER = "How is the weather in Oslo?", ASK_SUM = "What is 2 and 2?", NOBODY = "no-such-model";
    static final int TOKENS = 16, LONG = 400;

    private Cases() {}

    interface Case {
        void take() throws Exception;
    }

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(what);
    }

    static void same(String text) {
        check(text.equals(System.getenv("TEXT")), text);
    }

    static void reported(String text) {
        check(text.equals(System.getenv("REPORT")), text);
    }

    /** A stream came in pieces, and they are the text. */
    static void streamed(List<String> pieces) {
        check(pieces.size() > 3, pieces.size() + " pieces");
        same(String.join("", pieces));
    }

    static void run(Map<String, Case> cases) {
        cases.forEach((name, c) -> {
            System.out.println("case " + name);
            try {
                c.take();
                System.out.println("ok " + name);
            } catch (Throwable e) {
                e.printStackTrace();
                System.out.println("fail " + name + " " + e.toString().replaceAll("\\s+", " "));
            }
        });
        System.out.println("end");
        System.exit(0); // whatever threads a client has left
    }
}
