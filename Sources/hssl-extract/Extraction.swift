import CSupport
import HSSLCommandLine
import HSSLData
import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLRuntime
import Logging

/// Decoding and preparing on loader threads, inference in batches, rows in the order of the inputs.
struct Extraction {
    private let options: HSSLExtract
    private let session: Session
    private let preprocessing: Preprocessing
    private var inputs: InputList
    private let modelFingerprint: String
    private let log = Logger(label: "hssl-extract")

    /// When so many inputs from the start cannot be used, others spread over the whole list are tried: if none of them
    /// can be used either, something else than the images is wrong. Bad files that merely sort first stop nothing.
    private static let faultLimit = 100
    private static let faultSample = 1000

    /// - Throws: what is wrong with the model, the list of inputs or the memory limit.
    init(_ options: HSSLExtract) throws {
        self.options = options
        try refuseOverwriting(options.output, of: [options.model])
        let model = try ModelFile(path: options.model)
        var preprocessing = model.preprocessing
        options.background.apply(to: &preprocessing)
        self.preprocessing = preprocessing
        modelFingerprint = model.fingerprint
        if options.memoryLimit != nil { hssl_return_freed_memory() }
        // A limit that leaves nothing is refused further down, with what the model needs.
        let mostBytes = options.memoryLimit.map {
            max(Self.leastListBytes, $0.bytes - Int(hssl_peak_rss()) - Self.unseenBytes - options.threads << 20)
        } ?? .max
        inputs = try InputList(
            arguments: options.inputs, separator: UInt8(ascii: options.null ? "\0" : "\n"), mostBytes: mostBytes)
        guard inputs.count > 0 else {
            let reason = options.inputs.contains("-")
                ? "standard input gave no path" : "\(oneLine(options.inputs[0], limit: 4096)) holds no image"
            throw Failure("there are no inputs: \(reason)")
        }
        inputs.limit(to: try Self.decodeLimits(model, options))
        if let folders = inputs.folders { log.info("\(folders.text)") }
        session = try Session(model: Model(file: model), threads: options.threads)
    }

    /// What remains for decoding under `--memory-limit` once the model, the batch and the loader's queue have theirs.
    /// Call it when the list of inputs is there: that is part of the process as it is.
    private static func decodeLimits(_ model: ModelFile, _ options: HSSLExtract) throws -> DecodeLimits {
        var limits = DecodeLimits(
            maxPixels: options.decode.maxPixels?.count, maxDecodeMemory: options.decode.maxDecodeMemory?.bytes)
        // Twice the size that is kept: what Pillow calls a reducing gap of 2, "indistinguishable in most cases".
        if options.jpegDecode == .fast { limits.reducedSide = 2 * model.preprocessing.resize }
        guard let limit = options.memoryLimit?.bytes else { return limits }
        let image = model.preprocessing.count * 4
        // The process as it is, stacks and buffers of the threads; the model and its batch; the images that wait.
        let fixed = Int(hssl_peak_rss()) + unseenBytes + options.threads << 20
        let running = try Plan.memoryBound(
            model, threads: options.threads, batch: options.batchSize, features: options.features)
        let needed = fixed + running + queueCapacity(options) * image + leastDecodeBytes
        guard needed <= limit else {
            throw Failure(
                "--memory-limit \(limit) is too small: \(options.model) needs \(needed) bytes with "
                + "\(options.threads) threads and a batch of \(options.batchSize)"
            )
        }
        let bytes = leastDecodeBytes + limit - needed
        if bytes < limits.bytes {
            limits.bytes = bytes
            limits.name = "--memory-limit"
        }
        return limits
    }

    /// Code that has not run yet, and the C heap.
    private static let unseenBytes = 8 << 20
    /// Some ten thousand paths.
    private static let leastListBytes = 1 << 20
    /// Enough for a picture of a few hundred pixels a side: larger ones are refused one by one, with what they need.
    private static let leastDecodeBytes = 1 << 20

    private static func queueCapacity(_ options: HSSLExtract) -> Int { options.batchSize + options.threads }

    // MARK: Running

    func run() throws {
        let output = try EmbeddingOutput(
            path: options.output, rowShape: session.model.rowShape(options.features), run: identity(),
            resume: options.resume)
        if options.resume, output.start == .finished, try confirmFinished() { return }
        var stamp = InputStamp()
        try resume(output, &stamp)
        do {
            try extract(to: output, &stamp)
        } catch let error as Exit {
            throw error
        } catch {
            // A full disk keeps what it had; everything else can be kept up to here, once it is worth it.
            if output.durable.inputs > 0, !(error is FileError) { try? output.checkpoint() }
            guard let kept = output.kept else { throw error }
            throw Failure("\(error) (\(kept))")
        }
        if output.position.skipped > 0 { throw Exit(.partly) }
    }

    private func extract(to output: EmbeddingOutput, _ stamp: inout InputStamp) throws {
        let model = session.model
        let first = output.position.inputs
        let loader = PrefetchLoader(
            count: inputs.count - first, threads: options.threads, capacity: Self.queueCapacity(options)
        ) { [inputs, preprocessing] item in
            try inputs.withImage(first + item, side: preprocessing.resize, background: preprocessing.background) {
                preprocessing.apply(to: $0) as [Float]
            }
        }
        defer { loader.stop() }

        var batch = Batch(
            capacity: options.batchSize, imageCount: model.imageCount, rowCount: model.rowCount(options.features))
        var progress =
            options.shared.logLevel.loggerLevel <= .info
            ? ProgressBar(label: "extract", unit: "images", total: inputs.count, first: first) : nil
        func detail() -> String { output.position.skipped > 0 ? "\(output.position.skipped) skipped" : "" }
        var mayBeAllBad = true
        for item in first..<inputs.count {
            try stopIfAsked(output)
            guard let loaded = loader.next() else { break }
            batch.append(item, loaded)
            if batch.isFull || item == inputs.count - 1 {
                try write(&batch, to: output, &stamp)
                try output.checkpointIfDue()
                progress?.update(done: item + 1, detail: detail())
            }
            let skipped = output.position.skipped
            if mayBeAllBad, skipped == item + 1, skipped >= Self.faultLimit {
                guard inputs.hasUsable(sample: Self.faultSample) else {
                    output.discard()
                    throw Failure(
                        "none of the first \(skipped) inputs can be used, nor any of "
                        + "\(min(Self.faultSample, inputs.count)) others"
                    )
                }
                mayBeAllBad = false
            }
        }
        try stopIfAsked(output)
        guard output.position.rows > 0 else {
            output.discard()
            throw Failure("none of the \(inputs.count) inputs can be used")
        }
        try output.finish()
        progress?.finish(done: inputs.count, detail: detail())
        if let text = repairedText(inputs.repairedCount) { log.info("\(text)") }
    }

    private func stopIfAsked(_ output: EmbeddingOutput) throws {
        guard let status = StopSignal.exitStatus else { return }
        let done = "stopped by a signal after \(output.position.inputs) of \(inputs.count) inputs"
        if options.output == EmbeddingFormat.standardOutput {
            log.warning("\(done): the lines so far are whole")
        } else if output.durable.inputs == 0 {
            output.discard()
            log.warning("\(done): \(options.output) is not written")
        } else {
            try output.checkpoint()
            log.warning("\(done): \(output.kept ?? "\(options.output) is not complete")")
        }
        throw Exit(status)
    }

    /// Runs what was loaded and writes rows and index entries in the order of the inputs.
    private func write(_ batch: inout Batch, to output: EmbeddingOutput, _ stamp: inout InputStamp) throws {
        try session.extract(
            images: batch.images, count: batch.imageTotal, features: options.features, normalize: options.normalize,
            into: &batch.features)
        var image = 0
        for entry in batch.entries {
            let path = inputs.items[entry.item].path
            var fault = entry.fault
            if fault == nil {
                let row = batch.features[image * batch.rowCount..<(image + 1) * batch.rowCount]
                image += 1
                try row.withUnsafeBufferPointer { values in
                    if let base = values.baseAddress, hssl_all_finite(values.count, base) {
                        stamp.add(path)
                        try output.append(path: path, values: values, stamp: stamp.value)
                    } else {
                        fault = "\(path): its features are not finite"
                    }
                }
            }
            guard let fault else { continue }
            if options.onError == .fail { throw Failure(fault) }
            log.warning("skipped \(fault)")
            stamp.add(path)
            try output.append(path: path, error: fault, stamp: stamp.value)
        }
        batch.removeAll()
    }

    // MARK: Resuming

    /// What the result depends on.
    private func identity() -> EmbeddingRun {
        var list = CRC32C()
        for item in inputs.items { (PathBytes.bytes(item.path) + [0]).withUnsafeBytes { list.update($0) } }
        return EmbeddingRun(
            [
                .init("version", HSSLVersion.current),
                .init("instruction set", Processor.inferenceSet),
                .init("model", modelFingerprint), .init("list of inputs", "\(list.hexadecimal)-\(inputs.count)"),
                .init("--features", options.features.rawValue),
                .init("--normalize", options.normalize ? "on" : "off"),
                .init("--jpeg-decode", options.jpegDecode.rawValue),
                .init("--background", "\(preprocessing.background)"),
                .init("--memory-limit", options.memoryLimit.map { "\($0.bytes)" } ?? "none"),
                .init("--max-pixels", options.decode.maxPixels.map { "\($0.count)" } ?? "default"),
                .init("--max-decode-memory", options.decode.maxDecodeMemory.map { "\($0.bytes)" } ?? "default"),
            ], inputCount: inputs.count)
    }

    /// Says where a resumed run goes on, once its inputs up to there are known to be unchanged.
    private func resume(_ output: EmbeddingOutput, _ stamp: inout InputStamp) throws {
        guard options.resume else { return }
        let done = output.position.inputs
        for item in inputs.items.prefix(done) { stamp.add(item.path) }
        guard stamp.value == output.position.stamp else {
            throw Failure(
                "\(options.output): some of the \(done) inputs that an interrupted run read have changed since; "
                + "remove \(output.partialPath) to begin anew"
            )
        }
        log.info(
            done > 0
                ? "resuming after \(done) of \(inputs.count) inputs"
                : "\(options.output): nothing to resume; starting at the first input")
    }

    /// Whether nothing is left to do. What is there is compared with what this run would make.
    private func confirmFinished() throws -> Bool {
        let finished = try FinishedEmbeddings(
            path: options.output, rowShape: session.model.rowShape(options.features), inputs: inputs.count
        ) { inputs.items[$0].path }
        let rows = try finished.sample.map { item in
            try session.extract(
                images: preprocessing.apply(to: inputs.image(item, background: preprocessing.background)), count: 1,
                features: options.features, normalize: options.normalize)
        }
        try finished.verify(names: finished.sample.map { inputs.items[$0].path }, values: rows)
        log.info("\(options.output) is complete already: \(finished.rowCount) rows of \(inputs.count) inputs")
        if finished.rowCount < inputs.count { throw Exit(.partly) }
        return true
    }
}

/// Inputs on their way: prepared images in one block, and which inputs they are.
private struct Batch {
    private(set) var images: [Float]
    var features: [Float]
    private(set) var entries: [(item: Int, fault: String?)] = []
    private(set) var imageTotal = 0
    private let capacity: Int
    private let imageCount: Int
    let rowCount: Int

    init(capacity: Int, imageCount: Int, rowCount: Int) {
        (self.capacity, self.imageCount, self.rowCount) = (capacity, imageCount, rowCount)
        images = Array(repeating: 0, count: capacity * imageCount)
        features = Array(repeating: 0, count: capacity * rowCount)
    }

    /// Faults do not fill a batch, but too many of them are not kept waiting.
    var isFull: Bool { imageTotal == capacity || entries.count >= 4 * capacity }

    mutating func append(_ item: Int, _ loaded: Result<[Float], any Error>) {
        switch loaded {
        case .success(let image):
            images.withUnsafeMutableBufferPointer { images in
                guard let target = images.baseAddress else { return }
                image.withUnsafeBufferPointer {
                    if let source = $0.baseAddress {
                        (target + imageTotal * imageCount).update(from: source, count: imageCount)
                    }
                }
            }
            imageTotal += 1
            entries.append((item, nil))
        case .failure(let error): entries.append((item, "\(error)"))
        }
    }

    mutating func removeAll() {
        entries.removeAll(keepingCapacity: true)
        imageTotal = 0
    }
}

/// Why the command cannot do its work, in one line.
struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
