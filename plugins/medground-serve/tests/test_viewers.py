"""Viewers that hospitals have, against a real server and a real archive: OHIF in a browser, the clients of MONAI Label."""

import base64
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from serving import form

pytest.importorskip("pydicom", reason="needs pydicom")
pytest.importorskip("highdicom", reason="needs highdicom")

from viewing import (
    BLOCKS,
    KINDS,
    QUESTION,
    RECIPE,
    SIDES,
    Site,
    login,
    module_of,
    phantom,
    stub_slicer,
    unpacked,
)

from medground.images.read import read_mask
from medground.images.read_volume import read_volume
from medground.pipeline.load import load
from medground.pipeline.volumes import ground_volume

pytestmark = pytest.mark.slow
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewers")
    ohif = unpacked("monailabel/endpoints/static/ohif", folder / "wheel")
    site = Site(folder)
    try:
        site.start("--ohif", str(ohif), "--labels", str(folder / "labels"))
        yield site
    finally:
        site.archive.stop()
        code = None if site.server is None else site.server.stop()
    assert code == 0
    log = site.server.log.read_text()
    for word in ("Traceback", "failed", site.archive.password, site.server.token, "CANARY", "lower right", "Mueller"):
        assert word not in log


def test_the_answer_overlaps_the_block_that_the_question_names(site):
    for kind in KINDS:
        assert site.masks[kind][BLOCKS["wide"]].mean() > 0.8 and not site.masks[kind][BLOCKS["small"]].any()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive a browser")
    if not CHROMIUM.exists():
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


LOADED = """() => {
  const volume = window.cornerstone?.cache.getVolumes().find(one => one.volumeId.startsWith('cornerstoneStreaming'));
  return !!volume?.loadStatus?.loaded;
}"""
SHOWN = """() => {
  const values = volume => Array.from(volume.voxelManager.getCompleteScalarDataArray());
  const image = window.cornerstone.cache.getVolumes().find(one => one.volumeId.startsWith('cornerstoneStreaming'));
  const label = window.services.segmentationService.getLabelmapVolume('1');
  const { dimensions, origin, spacing, direction } = image;
  return { image: values(image), label: values(label), dimensions, origin, spacing, direction: Array.from(direction) };
}"""
MASKED = """() => {
  const label = window.services?.segmentationService.getLabelmapVolume('1');
  return !!label && label.voxelManager.getCompleteScalarDataArray().some(value => value);
}"""


def until(page, expression):
    """Ask from here: the page's policy forbids what `wait_for_function` needs."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"it did not happen: {expression}")


@pytest.fixture(scope="module")
def ohif(site, browser):
    """A page of OHIF that was opened as a person does, with what it asked for elsewhere, and what was refused."""
    server, context = site.server, browser.new_context(service_workers="block")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.outside, page.refused = [], []
    page.on(
        "request",
        lambda one: None if one.url.startswith((server.url, "blob:", "data:")) else page.outside.append(one.url),
    )
    page.on("response", lambda one: page.refused.append(one.url) if one.status >= 400 else None)
    page.goto(f"{server.address.replace('/#', '/viewer?StudyInstanceUIDs=' + site.study('phantom') + '#')}")
    yield page
    context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_ohif_shows_the_mask_on_the_voxels_that_the_answer_names(site, ohif, kind):
    page, url = ohif, site.server.url
    if kind != "phantom":
        page.goto(f"{url}/ohif/monai-label?StudyInstanceUIDs={site.study(kind)}")
    page.locator("#monailabelServerURL").wait_for()
    assert page.locator("#monailabelServerURL").input_value() == f"{url}/monailabel/"
    until(page, LOADED)
    page.locator(".settingsTable button.actionButton").click()
    page.get_by_text("Options / Configurations").click()
    page.locator("#infermedgroundquestion").fill(QUESTION[kind])
    if kind == "phantom":
        page.locator("#infermedgroundstore").check()
    page.get_by_role("button", name="Confirm").click()
    until(page, "() => !!window.services.segmentationService.getLabelmapVolume('1')")
    page.get_by_role("button", name="Run").first.click()
    until(page, MASKED)
    shown, volume = page.evaluate(SHOWN), site.volumes[kind]
    assert shown["image"] == volume.array().ravel(order="F").tolist()
    assert shown["label"] == site.masks[kind].ravel(order="F").astype(int).tolist()
    assert tuple(shown["dimensions"]) == SIDES
    axes = np.array(shown["direction"]).reshape(3, 3).T * np.array(shown["spacing"])
    assert np.allclose(axes, volume.affine[:3, :3], atol=1e-4)
    assert np.allclose(shown["origin"], volume.affine[:3, 3], atol=1e-4)
    assert [one for one in page.refused if "/monailabel/train/" not in one] == []
    assert {one.split("/")[2] for one in page.outside} <= {"fonts.googleapis.com"}, "its policy stops even these"


@pytest.mark.parametrize("kind", ["downward"])
def test_a_series_is_fetched_grounded_and_its_mask_stored_as_a_segmentation(site, kind, tmp_path):
    before = site.segmentations(kind)
    volume = site.volumes[kind]
    body = {"series": volume.origin.series, "question": QUESTION[kind], "store": True}
    status, answer = site.server.post("/ground/series", body)
    assert status == 200 and answer["stored"] and answer["fault"] is None
    [seg] = [one for one in site.segmentations(kind) if one not in before]
    (tmp_path / "seg.dcm").write_bytes(seg)
    for k, instance in enumerate(volume.origin.instances):
        picture = read_mask(tmp_path / "seg.dcm", image=instance.path)
        assert np.array_equal(picture, site.masks[kind][:, :, k].T)


def test_a_stored_volume_is_grounded_and_its_mask_comes_back(site):
    kind = "reversed"
    status, stored = site.server.upload(*(Path(one.path).read_bytes() for one in site.volumes[kind].origin.instances))
    assert status == 201
    question = {**stored, "question": QUESTION[kind]}
    status, answer = site.server.post("/ground/volume", question)
    assert status == 200 and answer["fault"] is None
    labels = base64.b64decode(answer["nrrd"]).partition(b"\n\n")[2]
    assert np.array_equal(np.frombuffer(labels, np.uint8).reshape(SIDES, order="F"), site.masks[kind])
    assert site.server.post("/ground/volume", {**question, "store": True})[0] == 422


def test_a_series_that_is_asked_about_again_is_not_fetched_again(site):
    body = {"series": site.volumes["reversed"].origin.series, "question": QUESTION["reversed"]}
    assert site.server.post("/ground/series", body)[0] == 200
    images = site.server.counter("medground_images")
    fields, kind = form({"params": json.dumps(body)}, None)
    path = f"/monailabel/infer/medground?image={body['series']}"
    status, headers, answer = site.server.request("POST", path, fields, Content_Type=kind)
    assert status == 200 and site.server.counter("medground_images") == images
    assert int(headers["content-length"]) == len(answer) and "transfer-encoding" not in headers
    assert re.search(rb'name="image"; filename="[0-9a-f]{16}\.nrrd"\r\n', answer)


@pytest.mark.parametrize(
    "path",
    [
        "../system", "..%2fsystem", "%2e%2e/system", "%2e%2e%2fsystem", "studies/../../system", "studies/..", "studies/.",
        "studies//..", "studies/1.2/../../../instances", "/system", "//127.0.0.1/system", "studies/1..2", "system",
        "instances/1.2/file", "studies/1.2.3%00", "studies/1.2.3%0d%0aX:1", "studies/1.2/series/1.2/instances/1.2/bulk/../..",
        "studies%3f/../system", "..;/system", "studies\\..\\..\\system",
    ],
)  # fmt: skip
def test_the_proxy_forwards_nothing_that_is_no_resource_of_dicomweb(site, path):
    status, _, body = site.server.get(f"/dicom-web/{path}")
    assert status == 404 and b"does not have it" not in body, "the archive was not asked"


def test_the_proxy_reads_and_does_not_write(site):
    study = site.study("phantom")
    status, headers, body = site.server.get(f"/dicom-web/studies/{study}/metadata")
    assert status == 200 and len(json.loads(body)) >= SIDES[2]
    assert json.loads(site.server.get("/dicom-web/studies?PatientName=CANARY%5E*")[2]), "Orthanc does not decode it"
    assert site.server.request("POST", "/dicom-web/studies", b"x")[0] == 405
    assert site.server.request("DELETE", f"/dicom-web/studies/{study}")[0] == 405
    assert site.server.get("/dicom-web/studies/1.2.3/metadata")[0] == 404
    assert "www-authenticate" not in headers


def cookie_of(server):
    status, headers, _ = server.request("POST", "/cookie")
    assert status == 204
    return headers["set-cookie"]


def test_the_cookie_stands_for_the_token_in_requests_of_the_server_s_own_pages_alone(site):
    server = site.server
    cookie = cookie_of(server)
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and server.token not in cookie
    value, host = cookie.partition(";")[0], f"127.0.0.1:{server.port}"

    def status(method="GET", **headers):
        path = "/monailabel/info/" if method == "GET" else "/monailabel/activelearning/first"
        return server.request(method, path, b"{}" if method == "POST" else b"", token="", Cookie=value, **headers)[0]

    assert status() == 200 and status("POST", Origin=f"http://{host}") == 200
    assert status(Sec_Fetch_Site="same-origin") == 200
    assert status("POST") == 401, "nothing says that it is a page of this server"
    for site_ in ("cross-site", "same-site"):
        assert status(Sec_Fetch_Site=site_) == 401
    for origin in (
        "https://evil.example",
        "null",
        f"http://127.0.0.1:{server.port + 1}",
        f"http://{host}.evil.example",
    ):
        assert status("POST", Origin=origin) == status(Origin=origin) == 401
    assert server.get("/monailabel/info/", Cookie=f"medground-{server.port}=wrong", Authorization="")[0] == 401
    evil = server.request("GET", "/monailabel/info/", token="", Cookie=value, Host="evil.example")
    assert evil[0] == 400


@pytest.mark.parametrize("path", ["/ohif/", "/ohif/app-config.js", "/dicom-web/studies", "/monailabel/info/"])
def test_viewers_need_the_token_or_the_cookie(site, path):
    assert site.server.request("GET", path, token="")[0] == 401
    assert site.server.get(path)[0] == 200


def test_the_token_is_given_to_whoever_gives_it_as_the_password_alone(site):
    server, kind = site.server, "application/x-www-form-urlencoded"
    assert json.loads(server.request("GET", "/monailabel/auth/", token="")[2]) == {"enabled": True}
    for password, status in ((server.token, 200), ("wrong", 401), ("%C3%A9", 401), ("", 422)):
        body = f"username=doctor&grant_type=password&password={password}".encode()
        answer = server.request("POST", "/monailabel/auth/token", body, token="", Content_Type=kind)
        assert answer[0] == status, password
    assert server.get("/monailabel/auth/token/valid")[0] == 200
    assert server.request("GET", "/monailabel/auth/token/valid", token="")[0] == 401


def test_ohif_s_folder_is_served_and_nothing_above_it(site):
    server = site.server
    assert b"/dicom-web" in server.get("/ohif/app-config.js")[2]
    assert server.get("/ohif/viewer?StudyInstanceUIDs=1.2")[1]["content-type"].startswith("text/html")
    for path in ("absent.js", "../index.html", "%2e%2e/%2e%2e/x.py", "..%2f..%2fmonailabel%2fmain.py", "a%00.js"):
        status, headers, _ = server.get(f"/ohif/{path}")
        assert status in (401, 404), path
    assert "'unsafe-eval'" not in headers["content-security-policy"]


def test_a_question_that_cannot_be_asked_is_refused_in_a_sentence(site):
    uid, server = site.volumes["phantom"].origin.series, site.server
    for params, word in [
        ("[]", "JSON object"), ("{", "JSON object"), ('{"question": ""}', "question"), ('{"slice": "99"}', "slice"),
        ('{"slice": "-1"}', "slice"), ('{"window": "absurd"}', "window"), ('{"store": "maybe"}', "store"),
    ]:  # fmt: skip
        body, kind = form({"params": params}, None)
        status, _, text = server.request("POST", f"/monailabel/infer/medground?image={uid}", body, Content_Type=kind)
        assert status == 422 and word in json.loads(text)["error"], params
    body, kind = form({"params": "{}"}, None)
    for path, status in [
        ("infer/other?image=1.2", 404), ("infer/medground?image=1.2.3", 404), ("infer/medground?image=CT+Chest", 422),
        ("infer/medground", 422), ("infer/medground?session_id=absent", 404),
    ]:  # fmt: skip
        assert server.request("POST", f"/monailabel/{path}", body, Content_Type=kind)[0] == status, path


# --- the clients of MONAI Label, out of its wheel


def nifti(site, folder):
    """Write a series as Slicer saves a volume, and return what a question about it has as its answer."""
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    volume = site.volumes["downward"]
    path = folder / "Mueller Anna.nii.gz"
    nibabel.save(nibabel.Nifti1Image(phantom(), volume.ras_affine), path)
    answer = ground_volume(load(*RECIPE), read_volume(path), QUESTION["downward"])
    return path, answer.mask


def check_mask(path, image, mask):
    """The mask lies where its image lies, as Slicer reads both."""
    sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK")
    ours, theirs = sitk.ReadImage(str(path)), sitk.ReadImage(str(image))
    for corner in [(0, 0, 0), tuple(side - 1 for side in SIDES), (SIDES[0] - 1, 0, 0), (0, SIDES[1] - 1, 0)]:
        points = [one.TransformIndexToPhysicalPoint(corner) for one in (ours, theirs)]
        assert np.allclose(*points, atol=1e-4)
    assert np.array_equal(sitk.GetArrayFromImage(ours).T > 0, mask) and mask.any()


@pytest.fixture
def client_module():
    """Return the importer of a client, which needs `requests` and the `cgi` that Python 3.13 removed."""
    pytest.importorskip("requests", reason="needs requests, which MONAI Label's client imports")
    if sys.version_info >= (3, 13):
        pytest.skip("MONAI Label's client imports cgi, which Python 3.13 does not have")
    return module_of


CLIENT_LEAVES = [
    pytest.mark.filterwarnings("ignore:'cgi' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""MONAI Label's client leaves files and connections open."""


def marked(test):
    for mark in CLIENT_LEAVES:
        test = mark(test)
    return test


@marked
def test_monai_label_s_own_client_speaks_with_the_server(site, client_module, tmp_path):
    module = client_module(unpacked("monailabel/client/client.py", tmp_path / "wheel"))
    token = {"token_type": "bearer", "access_token": site.server.token}

    def client():
        """A client for one request: it sends the headers of one body with the next request, too."""
        one = module.MONAILabelClient(f"{site.server.url}/monailabel", tmpdir=str(tmp_path))
        one.update_auth(token)
        return one

    assert client().auth_enabled() and client().auth_valid_token()
    info = client().info()
    assert list(info["models"]) == ["medground"] and "config" not in info
    image, mask = nifti(site, tmp_path)
    params = {"question": QUESTION["downward"]}
    session = client().create_session(str(image))["session_id"]
    assert client().get_session(session)["name"] == session
    for words in ({"session_id": session}, {"file": str(image)}):
        path, result = client().infer("medground", "x", dict(params), **words)
        check_mask(path, image, mask)
        assert result["label_names"]["region 1"] == 1 and "not a medical device" in result["statement"]
    path, _ = client().infer("medground", site.volumes["downward"].origin.series, dict(params))
    check_mask(path, image, site.masks["downward"])
    assert client().save_label("a study", path, "final", {"label_info": [{"name": "region 1", "idx": 1}]})
    assert Path(client().download_label("a study", "final")).read_bytes() == Path(path).read_bytes()
    assert client().datastore() == {"objects": {}} and client().next_sample("first", {}) == {}
    assert client().train_status(True) is False
    client().remove_session(session)
    for call in (
        lambda: client().get_session(session), lambda: client().infer("absent", "1.2", {}),
        lambda: client().download_label("another", "final"),
    ):  # fmt: skip
        with pytest.raises(module.MONAILabelClientException):
            call()
    with pytest.raises(module.MONAILabelClientException):
        module.MONAILabelClient(f"{site.server.url}/monailabel").info()


@marked
def test_slicer_s_own_module_asks_and_saves(site, client_module, tmp_path, monkeypatch):
    client_path = unpacked("plugins/slicer/MONAILabel/MONAILabelLib/", tmp_path / "wheel")
    path = unpacked("plugins/slicer/MONAILabel/MONAILabel.py", tmp_path / "wheel")
    monkeypatch.syspath_prepend(str(client_path.parent))
    stub_slicer(monkeypatch)
    slicer = client_module(path)
    monkeypatch.setattr(slicer, "LoginDialog", login(site.server.token))
    logic = slicer.MONAILabelLogic(str(tmp_path / "slicer"), f"{site.server.url}/monailabel", client_id="user-1")
    (tmp_path / "slicer").mkdir()
    info = logic.info()
    assert not info.get("config"), "Slicer takes it for an old server"
    panel = types.SimpleNamespace(info=info, invalidateConfigTable=lambda: None)
    params = slicer.MONAILabelWidget.getParamsFromConfig(panel, "infer", "medground")
    assert params["question"]
    params["question"] = QUESTION["downward"]
    image, mask = nifti(site, tmp_path)
    session = logic.create_session(str(image))["session_id"]
    assert logic.get_session(session)
    file, result = logic.infer("medground", "CT Chest", params, session_id=session)
    check_mask(file, image, mask)
    assert sorted(result["label_names"].values())[0] == 1
    logic.upload_image(str(image), "CT Chest")
    logic.save_label("CT Chest", file, {"label_info": [{"name": "region 1", "idx": 1}]})
    [saved_label] = site.folder.joinpath("labels").glob("CT_Chest-*/label-*.nrrd")
    assert saved_label.read_bytes() == Path(file).read_bytes()
    assert json.loads(saved_label.with_suffix(".json").read_text())["label_info"][0]["name"] == "region 1"
    assert logic.train_status(True) is False
    logic.remove_session(session)
    with pytest.raises(sys.modules["MONAILabelLib"].MONAILabelClientException):
        logic.get_session(session)
