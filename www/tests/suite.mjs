// Everything that is checked in a browser, the same in each.

import { after, before, describe } from "node:test";
import { launch } from "./browsers.mjs";
import { checkTests } from "./checks.mjs";
import { examplesTests } from "./examples.mjs";
import { installTests } from "./install.mjs";
import { loadingTests } from "./loading.mjs";
import { lostTests } from "./lost.mjs";
import { memoryTests } from "./memory.mjs";
import { packageTests } from "./package.mjs";
import { pageLooksTests } from "./page-looks.mjs";
import { pagePinnedTests } from "./page-pinned.mjs";
import { pageTalksTests } from "./page-talks.mjs";
import { pageTests } from "./page.mjs";
import { serve } from "./server.mjs";
import { sessionsTests } from "./sessions.mjs";
import { tabsTests } from "./tabs.mjs";

export function suite(name) {
  const setting = { name };
  describe(name, { timeout: 3_600_000 }, () => {
    before(async () => {
      setting.server = await serve();
      setting.browser = await launch(name);
      console.log(`${name} ${setting.browser.version}`);
    });
    after(async () => {
      await setting.browser?.close();
      await setting.server?.close();
    });
    checkTests(setting);
    loadingTests(setting);
    packageTests(setting);
    sessionsTests(setting);
    lostTests(setting);
    if (name === "chromium") {
      memoryTests(setting); // no other browser tells what JavaScript holds
      tabsTests(setting);
      installTests(setting);
    }
    examplesTests(setting, name);
    pageTests(setting);
    pagePinnedTests(setting);
    pageTalksTests(setting);
    pageLooksTests(setting);
  });
}
