import dev.langchain4j.agent.tool.ToolExecutionRequest;
import dev.langchain4j.agent.tool.ToolSpecification;
import dev.langchain4j.data.message.*;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.request.*;
import dev.langchain4j.model.chat.request.json.*;
import dev.langchain4j.model.chat.response.*;
import dev.langchain4j.model.ollama.*;
import dev.langchain4j.model.openai.*;
import java.util.*;
import java.util.concurrent.CompletableFuture;

/** LangChain4j, with the models for OpenAI's API or for Ollama's, as PROVIDER says. */
final class LangChain4j {
    static final boolean OLLAMA = "ollama".equals(System.getenv("PROVIDER"));

    static ChatModel model(String base, String name, int tokens) {
        return OLLAMA
            ? OllamaChatModel.builder().baseUrl(base).modelName(name).temperature(0.0).numPredict(tokens).maxRetries(0).build()
            : OpenAiChatModel.builder().baseUrl(base + "/v1").apiKey("none").modelName(name).temperature(0.0).maxTokens(tokens).maxRetries(0).build();
    }

    static StreamingChatModel streaming(int tokens) {
        return OLLAMA
            ? OllamaStreamingChatModel.builder().baseUrl(Cases.BASE).modelName(Cases.MODEL).temperature(0.0).numPredict(tokens).build()
            : OpenAiStreamingChatModel.builder().baseUrl(Cases.BASE + "/v1").apiKey("none").modelName(Cases.MODEL).temperature(0.0).maxTokens(tokens).build();
    }

    static void chat() {
        Cases.same(model(Cases.BASE, Cases.MODEL, Cases.TOKENS).chat(Cases.QUESTION));
    }

    static void stream() throws Exception {
        List<String> pieces = new ArrayList<>();
        CompletableFuture<Void> done = new CompletableFuture<>();
        streaming(Cases.TOKENS).chat(Cases.QUESTION, new StreamingChatResponseHandler() {
            public void onPartialResponse(String piece) {
                pieces.add(piece);
            }

            public void onCompleteResponse(ChatResponse whole) {
                done.complete(null);
            }

            public void onError(Throwable e) {
                done.completeExceptionally(e);
            }
        });
        done.get();
        Cases.streamed(pieces);
    }

    static void tools() {
        ToolSpecification weather = ToolSpecification.builder().name("weather").description("the weather")
            .parameters(JsonObjectSchema.builder().addStringProperty("city").required("city").build()).build();
        ChatModel agent = model(Cases.AGENT_BASE, Cases.AGENT_MODEL, 100);
        List<ChatMessage> messages = new ArrayList<>(List.of(UserMessage.from(Cases.ASK_WEATHER)));
        AiMessage first = agent.chat(ChatRequest.builder().messages(messages).toolSpecifications(weather).build()).aiMessage();
        ToolExecutionRequest call = first.toolExecutionRequests().get(0);
        Cases.check(call.arguments().replaceAll("\\s", "").equals("{\"city\":\"Oslo\"}"), call);
        messages.add(first);
        messages.add(ToolExecutionResultMessage.from(call, "rain"));
        Cases.reported(agent.chat(ChatRequest.builder().messages(messages).toolSpecifications(weather).build()).aiMessage().text());
    }

    static void structure() {
        JsonSchema sum = JsonSchema.builder().name("sum").rootElement(JsonObjectSchema.builder().addIntegerProperty("sum").required("sum").build()).build();
        String text = model(Cases.BASE, Cases.MODEL, 100).chat(ChatRequest.builder().messages(UserMessage.from(Cases.ASK_SUM))
            .responseFormat(ResponseFormat.builder().type(ResponseFormatType.JSON).jsonSchema(sum).build()).build()).aiMessage().text();
        Cases.check(text.matches("\\{\\s*\"sum\"\\s*:\\s*-?\\d+\\s*\\}"), text);
    }

    static void errors() {
        try {
            model(Cases.BASE, Cases.NOBODY, Cases.TOKENS).chat(Cases.QUESTION);
        } catch (dev.langchain4j.exception.ModelNotFoundException e) {
            Cases.check(e.getMessage().contains(Cases.NOBODY), e);
            return;
        }
        Cases.check(false, "an unknown model is no error");
    }

    public static void main(String[] args) {
        Map<String, Cases.Case> cases = new LinkedHashMap<>();
        cases.put("chat", LangChain4j::chat);
        cases.put("stream", LangChain4j::stream);
        cases.put("tools", LangChain4j::tools);
        cases.put("structure", LangChain4j::structure);
        cases.put("errors", LangChain4j::errors);
        Cases.run(cases);
    }
}
