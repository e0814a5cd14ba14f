// Runs a model that `actionfusion export RUN --format onnx --out EXPORT` wrote on the clip in its check folder.
//
//     node index.mjs EXPORT
//
// Prints the label, its probability, and the largest difference from the probabilities that are expected there.
// Exit code: 0 if they agree, 1 if not, 2 for wrong usage.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as ort from "onnxruntime-node";

const EXPORT_FORMATS = [1, 2];

async function readJson(path) {
  return JSON.parse(await readFile(path, "utf8"));
}

// Every input is one block of bytes, in the order of its shape: clip, sampled frame, channel, row, column.
async function readInput(folder, spec, file) {
  const bytes = new Uint8Array(await readFile(join(folder, "check", file)));
  const count = spec.shape.reduce((product, length) => product * length, 1);
  if (spec.dtype !== "uint8" || bytes.length !== count) {
    throw new Error(`${file}: ${bytes.length} bytes, wanted ${count} of ${spec.dtype}`);
  }
  return new ort.Tensor("uint8", bytes, spec.shape);
}

async function main(folder) {
  const about = await readJson(join(folder, "model.json"));
  if (!EXPORT_FORMATS.includes(about.export_format)) {
    throw new Error(`model.json: export format ${about.export_format}, this reads ${EXPORT_FORMATS.join(" and ")}`);
  }
  if (about.format !== "onnx") {
    throw new Error(`model.json: format ${about.format}; export with --format onnx`);
  }
  const expected = await readJson(join(folder, about.check));
  const inputs = {};
  for (const spec of about.inputs) {
    inputs[spec.name] = await readInput(folder, spec, expected[spec.name]);
  }
  const session = await ort.InferenceSession.create(join(folder, about.model));
  const outputs = await session.run(inputs);
  const probabilities = Array.from(outputs[about.output.name].data);

  const best = probabilities.indexOf(Math.max(...probabilities));
  const label = about.labels[best];
  const differences = probabilities.map((value, index) => Math.abs(value - expected.probabilities[index]));
  const largest = Math.max(...differences);
  console.log(`label: ${label}`);
  console.log(`probability: ${probabilities[best].toFixed(6)}`);
  console.log(`largest difference: ${largest.toExponential(2)} (allowed ${expected.tolerance})`);
  if (label !== expected.label || !(largest <= expected.tolerance)) {
    console.error(`error: expected ${expected.label}; the model does not answer as it did where it was exported`);
    return 1;
  }
  return 0;
}

const folder = process.argv[2];
if (process.argv.length !== 3) {
  console.error("usage: node index.mjs EXPORT");
  process.exitCode = 2;
} else {
  try {
    process.exitCode = await main(folder);
  } catch (error) {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  }
}
