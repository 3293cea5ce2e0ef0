// Search in pages that are opened from disk, where browsers allow no workers: the worker's script runs in a hidden frame.
// Material's own plugin would fetch such a script from the net. Over http nothing is changed.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentWindow;
      const script = inner.document.createElement("script");
      // What a worker posts reaches the page, and what the page posts reaches the worker, each as an event.
      inner.postMessage = (data) => queueMicrotask(() => this.tell(data));
      this.toWorker = (data) => inner.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = new Promise((done) => script.addEventListener("load", done));
      this.frame = frame;
      script.src = url;
      inner.document.body.append(script);
    }
    tell(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }
    postMessage(data) {
      this.ready.then(() => this.toWorker(data));
    }
    terminate() {
      this.frame.remove();
    }
  }
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
