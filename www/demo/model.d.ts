// Vite gives the address of a file that is imported with `?url`.
declare module "*.gguf?url" {
  const address: string;
  export default address;
}
