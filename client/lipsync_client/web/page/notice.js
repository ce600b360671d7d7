// Over the face: why there is no connection, and what to do.

const $ = (id) => document.getElementById(id);
const PATIENCE_MS = 700; // a connection that is back by then is not worth a word

const NO_ANSWER = ["No answer", "The server of this page does not answer. Is the network up?"];
const NOTICES = {
  token: ["A token is needed", "Enter the token, or open the whole address that you were given: the token is its end."],
  full: ["All places are taken", ""],
  idle: ["Paused", "Nobody has used this page for a while."],
  failed: ["The face is not available", ""],
  bad_message: ["This page is out of date", "Reload it."],
  too_much: ["Too much at once", "The server has ended the connection."],
};

export class Notice {
  /**
   * @param {() => void} onRetry the person wants a connection now
   * @param {(token: string) => void} onToken the person has entered a token
   */
  constructor(onRetry, onToken) {
    $("retry").onclick = onRetry;
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      onToken($("token").value.trim());
    };
  }

  /** The connection is lost. `wait`: seconds until the next try, or null if there will be none. */
  show(reason, text, wait) {
    clearTimeout(this.patience);
    clearInterval(this.countdown);
    const [title, plain] = NOTICES[reason] ?? NO_ANSWER;
    const words = reason === "token" || reason === "bad_message" ? plain : text || plain;
    const patience = wait === null || !$("notice").hidden ? 0 : PATIENCE_MS;
    this.patience = setTimeout(() => {
      $("notice").hidden = false;
      if ($("notice-text").textContent !== words) {
        // What did not change is not read out again.
        $("notice-title").textContent = title;
        $("notice-text").textContent = words;
      }
      $("token-form").hidden = reason !== "token";
      $("retry").hidden = reason === "token";
      if (reason === "token") $("token").focus();
    }, patience);
    if (wait === null) $("retry").textContent = "Connect";
    else this.#count(performance.now() + wait * 1000);
  }

  hide() {
    clearTimeout(this.patience);
    clearInterval(this.countdown);
    $("notice").hidden = true;
  }

  #count(until) {
    const count = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      $("retry").textContent = left > 0 ? `Try now (${left} s)` : "Trying …";
    };
    count();
    this.countdown = setInterval(count, 250);
  }
}
