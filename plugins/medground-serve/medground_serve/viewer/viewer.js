// Trades the token in the address's fragment for a cookie, which OHIF's requests carry, and opens OHIF.
const token = location.hash.slice(1);
const study = new URLSearchParams(location.search).get("StudyInstanceUIDs");
const status = document.querySelector("[role=status]");

history.replaceState(null, "", location.pathname + location.search);
try {
  const response = await fetch("/cookie", { method: "POST", headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (response.ok) {
    document.cookie = `MONAILABEL_SERVER_URL=${location.origin}/monailabel/; path=/; SameSite=Strict`; // the panel reads it
    location.replace(study ? `/ohif/monai-label?${new URLSearchParams({ StudyInstanceUIDs: study })}` : "/ohif/");
  } else {
    status.textContent = "The token is missing or wrong. Open the address that the server printed.";
  }
} catch {
  status.textContent = "The server does not answer.";
}
