import sys, tempfile
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from serving import Server
from playwright.sync_api import sync_playwright
out = Path(sys.argv[1]); out.mkdir(exist_ok=True)
s = Server(folder=Path(tempfile.mkdtemp())).wait_ready()
from importlib.resources import files
import axe_playwright_python
axe = next(Path(axe_playwright_python.__file__).parent.rglob("axe.min.js")).read_text()
try:
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for w, h in ((1280, 800), (400, 800)):
            for scheme in ("light", "dark"):
                page = b.new_page(viewport={"width": w, "height": h}, color_scheme=scheme)
                errs = []
                page.on("console", lambda m: m.type in ("error", "warning") and errs.append(m.text))
                page.on("pageerror", lambda e: errs.append(str(e)))
                page.goto(s.address)
                def check(when):
                    page.evaluate(axe)
                    r = page.evaluate("axe.run(document, {resultTypes: ['violations','incomplete']})")
                    print(w, scheme, when, {k: [(v["id"], v["impact"], [n["html"][:90] for n in v["nodes"]]) for v in r[k]] for k in ("violations", "incomplete")})
                check("empty")
                if scheme == "light": page.screenshot(path=str(out / f"{w}-{scheme}-empty.png"))
                page.get_by_role("button", name="Use a drawn example").click()
                page.get_by_role("status").get_by_text("Ask about the image").wait_for()
                page.get_by_role("button", name="Ground").click()
                page.get_by_role("status").get_by_text("Done").wait_for(timeout=60000)
                check("answered")
                print("sideways", page.evaluate("document.documentElement.scrollWidth > innerWidth"), errs)
                page.screenshot(path=str(out / f"{w}-{scheme}.png"), full_page=True)
                page.close()
        b.close()
finally:
    print(s.stop()); print(s.log.read_text())
