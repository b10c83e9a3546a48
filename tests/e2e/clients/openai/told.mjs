// What the scripts of this directory share. The client takes its address and key from the environment.
import OpenAI from "openai";

export const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });
export const user = (content) => [{ role: "user", content }];

/** Prints what a script has seen: one JSON object on one line. */
export const tell = (seen) => console.log(JSON.stringify(seen));

/** The error that a promise is rejected with, as the SDK shows it. */
export async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    const { status, code, type, param } = error;
    return { name: error.constructor.name, status, code, type, param, request: error.requestID };
  }
  throw new Error("nothing was refused");
}
