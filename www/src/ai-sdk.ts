// A model for Vercel's AI SDK (`generateText`, `streamText`): `sinkstream/ai-sdk`.
//
//     const model = sinkstream(await Engine.load({ model: "model.gguf" }));
//     const { textStream } = streamText({ model, prompt: "Once upon a time" });

import type {
  LanguageModelV4,
  LanguageModelV4CallOptions,
  LanguageModelV4FinishReason,
  LanguageModelV4Prompt,
  LanguageModelV4StreamPart,
  LanguageModelV4Usage,
  SharedV4Warning,
} from "@ai-sdk/provider";
import type { ChatCompletionRequest, ChatMessage, FinishReason, Usage } from "./chat.js";
import type { Engine } from "./index.js";

/** The model of an engine, as the AI SDK takes it. */
export function sinkstream(engine: Engine): LanguageModelV4 {
  return {
    specificationVersion: "v4",
    provider: "sinkstream",
    modelId: engine.info.model,
    supportedUrls: {},

    async doGenerate(options) {
      const { request, warnings } = translate(options);
      const { id, created, model, choices, usage } = await engine.chat.completions.create({ ...request, stream: false }, { signal: options.abortSignal });
      const [{ message, finish_reason }] = choices;
      return {
        content: [{ type: "text", text: message.content }],
        finishReason: reason(finish_reason),
        usage: counted(usage),
        response: { id, timestamp: new Date(created * 1000), modelId: model },
        warnings,
      };
    },

    async doStream(options) {
      const { request, warnings } = translate(options);
      const chunks = await engine.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } }, { signal: options.abortSignal });
      async function* parts(): AsyncGenerator<LanguageModelV4StreamPart, void, void> {
        const id = "0";
        yield { type: "stream-start", warnings };
        let finish: FinishReason = "stop";
        let isFirst = true;
        for await (const { id: response, created, model, choices, usage } of chunks) {
          if (isFirst) {
            yield { type: "response-metadata", id: response, timestamp: new Date(created * 1000), modelId: model };
            yield { type: "text-start", id };
            isFirst = false;
          }
          const delta = choices[0]?.delta.content;
          if (delta) yield { type: "text-delta", id, delta };
          finish = choices[0]?.finish_reason ?? finish;
          if (usage) {
            yield { type: "text-end", id };
            yield { type: "finish", finishReason: reason(finish), usage: counted(usage) };
          }
        }
      }
      return { stream: streamOf(parts()) };
    },
  };
}

/** What the engine is asked, and what of the options it cannot do. */
function translate(options: LanguageModelV4CallOptions): { request: ChatCompletionRequest; warnings: SharedV4Warning[] } {
  const wanted: [feature: string, isWanted: boolean][] = [
    ["frequencyPenalty", (options.frequencyPenalty ?? 0) !== 0],
    ["presencePenalty", (options.presencePenalty ?? 0) !== 0],
    ["responseFormat", options.responseFormat?.type === "json"],
    ["tools", (options.tools?.length ?? 0) > 0],
  ];
  const warnings = wanted.filter(([, isWanted]) => isWanted).map(([feature]): SharedV4Warning => ({ type: "unsupported", feature }));
  const request: ChatCompletionRequest = {
    messages: messagesOf(options.prompt),
    max_tokens: options.maxOutputTokens,
    temperature: options.temperature,
    top_p: options.topP,
    top_k: options.topK,
    seed: options.seed,
    stop: options.stopSequences,
  };
  return { request, warnings };
}

function messagesOf(prompt: LanguageModelV4Prompt): ChatMessage[] {
  return prompt.map(({ role, content }): ChatMessage => {
    if (role === "tool") throw new RangeError("messages of tools: not available in this engine");
    if (typeof content === "string") return { role, content };
    const text = content.map((part) => {
      if (part.type === "reasoning") return "";
      if (part.type !== "text") throw new RangeError(`a ${part.type} in a message: only text is understood`);
      return part.text;
    });
    return { role, content: text.join("") };
  });
}

function reason(raw: FinishReason): LanguageModelV4FinishReason {
  return { unified: raw, raw };
}

function counted({ prompt_tokens, completion_tokens, prompt_tokens_details: { cached_tokens } }: Usage): LanguageModelV4Usage {
  return {
    inputTokens: { total: prompt_tokens, noCache: prompt_tokens - cached_tokens, cacheRead: cached_tokens, cacheWrite: undefined },
    outputTokens: { total: completion_tokens, text: completion_tokens, reasoning: undefined },
  };
}

/** A stream that asks for the next part when the last is taken, and ends the generator when it is cancelled. */
function streamOf<T>(parts: AsyncGenerator<T, void, void>): ReadableStream<T> {
  return new ReadableStream<T>(
    {
      async pull(controller) {
        const { done, value } = await parts.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      async cancel() {
        await parts.return();
      },
    },
    { highWaterMark: 0 },
  );
}
