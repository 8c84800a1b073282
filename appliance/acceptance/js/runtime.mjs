// What the SDK expects of its runtime. Must be imported before the SDK.

// matrix-js-sdk 43 names Node 22; the only thing of Node 22 it uses is this function.
Promise.withResolvers ??= function withResolvers() {
    let resolve, reject;
    const promise = new this((yes, no) => ([resolve, reject] = [yes, no]));
    return { promise, resolve, reject };
};

// Standard output carries the answers to commands; whatever is logged goes to standard error.
for (const level of ["debug", "info", "log", "trace"]) {
    console[level] = console.error;
}
