import { hello } from "sinkstream"; console.log(hello);
