// Runs a function in a page that has the package.
//
// Tests that load a model on the GPU take `chunk: 1` unless they need more: half as many pipelines are compiled, and that is most of their time.

/** Runs `work` in a new page, where it gets the package, `argument`, and a few helpers. */
export async function inPage(setting, work, argument) {
  const { page } = await setting.browser.open(`${setting.server.url}/blank`);
  try {
    return await page.evaluate(
      async ({ work, argument }) => {
        const sinkstream = await import("/dist/index.js");
        /** The first so many pieces of a stream, or all of them. */
        const take = async (stream, count = Infinity) => {
          const pieces = [];
          for await (const piece of stream) if (pieces.push(piece) >= count) break;
          return pieces;
        };
        /** The name of what a promise rejects with. */
        const failure = (promise) => promise.then(() => "nothing", (error) => `${error.name}: ${error.message}`);
        const pause = (ms) => new Promise((later) => setTimeout(later, ms));
        return await (0, eval)(`(${work})`)(sinkstream, argument, { take, failure, pause });
      },
      { work: work.toString(), argument },
    );
  } finally {
    await page.close();
  }
}
