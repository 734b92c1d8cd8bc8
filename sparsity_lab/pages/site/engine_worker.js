/* Trains one model in a worker, so that the page answers meanwhile. It gets the arguments of `Training` and sends the
 * losses of new steps about ten times a second; at the end also the held-out loss. */

const MILLISECONDS = 100;

onmessage = ({ data: { config, run, steps, text } }) => {
  const training = new Training(config, run, steps, text);
  let losses = [], sent = performance.now();
  while (!training.done) {
    losses.push(training.step());
    if (performance.now() - sent > MILLISECONDS) {
      postMessage({ losses });
      losses = [];
      sent = performance.now();
    }
  }
  postMessage({ losses, heldOut: training.evaluate() });
};
