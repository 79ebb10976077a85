// The worker of one page.

import { Host, type Port } from "./host.js";

new Host().connect(globalThis as unknown as Port);
