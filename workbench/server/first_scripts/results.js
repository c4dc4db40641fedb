/* Gradio receives the results of events through a stream, which the server ends after the last result, and which the
 * page opens again for the next event. If that event reaches the server just after the end, and the page receives its
 * id just before the end, the page does not open a stream, and the event has no result. Here, the end is withheld while
 * an event with an id has no result, and the stream continues with the next one.
 */
(() => {
  const fetchOnce = window.fetch.bind(window);
  const waiting = new Set();   // ids of events without a result
  const early = new Set();     // ids of events whose result arrived first

  const join = async (request) => {
    const response = await fetchOnce(request);
    const { event_id: event } = await response.clone().json().catch(() => ({}));
    if (event && !early.delete(event)) waiting.add(event);
    return response;
  };

  /* Note what a message of the stream says; return whether it ends the stream although a result is awaited. */
  const isWithheld = (message) => {
    if (!/"(process_completed|close_stream)"/.test(message)) return false;
    const { msg, event_id: event } = JSON.parse(message.slice(message.indexOf("{")));
    if (msg === "process_completed" && !waiting.delete(event)) early.add(event);
    return msg === "close_stream" && waiting.size > 0;
  };

  /* Pass on the messages of a response; return whether the stream continues. */
  const passOn = async (response, controller) => {
    if (!response.ok) throw new Error(`${response.url}: ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(), encoder = new TextEncoder();
    let rest = "", continues = false;
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const messages = (rest + read.value).split("\n\n");
      rest = messages.pop();
      for (const message of messages) {
        if (isWithheld(message)) continues = true;
        else controller.enqueue(encoder.encode(`${message}\n\n`));
      }
    }
    return continues;
  };

  const stream = async (request) => {
    const first = await fetchOnce(request.clone());
    if (!first.ok) return first;
    const body = new ReadableStream({
      async start(controller) {
        try {
          for (let more = await passOn(first, controller); more;) more = await passOn(await fetchOnce(request.clone()), controller);
          controller.close();
        } catch (error) {
          if (!request.signal.aborted) waiting.clear();
          controller.error(error);
        }
      },
    });
    return new Response(body, { status: first.status, headers: first.headers });
  };

  window.fetch = (resource, options) => {
    const { pathname } = new URL(resource instanceof Request ? resource.url : resource, location);
    if (pathname.endsWith("/queue/join")) return join(new Request(resource, options));
    if (pathname.endsWith("/queue/data")) return stream(new Request(resource, options));
    return fetchOnce(resource, options);
  };
})();
