// A component that writes without end while it is shown.
import * as React from "react";
import { createRoot } from "react-dom/client";
import { Engine } from "sinkstream";

/** One engine for the whole app. */
const engine = Engine.load({ model: "model.gguf" });

function Story({ beginning }) {
  const [text, setText] = React.useState(beginning);
  const [error, setError] = React.useState();
  React.useEffect(() => {
    const abort = new AbortController();
    let session;
    (async () => {
      session = await (await engine).createSession({ signal: abort.signal });
      for await (const piece of session.promptStreaming(beginning, { signal: abort.signal })) {
        setText((text) => (text + piece).slice(-4000));
      }
    })().catch((error) => abort.signal.aborted || setError(error));
    return () => {
      abort.abort();
      session?.destroy();
    };
  }, [beginning]);
  return error ? <p role="alert">{error.message}</p> : <p>{text}</p>;
}

createRoot(document.getElementById("root")).render(<Story beginning="Once upon a time" />);
