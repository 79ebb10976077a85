// The demo page. It uses the package as it is published (`dist/`), like any other page would.
import { defineConfig } from "vite";

export default defineConfig({
  root: "demo",
  base: "./",
  resolve: { alias: { sinkstream: new URL("dist/index.js", import.meta.url).pathname } },
  assetsInclude: ["**/*.gguf"],
  worker: { format: "es" },
  build: { outDir: "../site", emptyOutDir: true, target: "es2022", assetsInlineLimit: 0 },
  preview: { host: "127.0.0.1", port: 8080 },
});
