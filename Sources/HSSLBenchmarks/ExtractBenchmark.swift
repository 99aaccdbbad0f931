import CSupport
import HSSLGraph
import HSSLModels
import HSSLRuntime

/// Feature extraction on synthetic images: random weights, real work.
public struct ExtractBenchmark {
    public let architecture: ModelArchitecture
    public let precision: Precision
    public let batchSize: Int
    public let steps: Int

    public init(architecture: ModelArchitecture, precision: Precision, batchSize: Int, steps: Int) {
        (self.architecture, self.precision, self.batchSize, self.steps) = (architecture, precision, batchSize, steps)
    }

    public struct Result: Sendable {
        /// Median over the steps.
        public let imagesPerSecond: Double
        public let peakRSSBytes: Int
        /// Operations of matrix products that are done a second, of what a register-only loop of the same type reaches
        /// in the same run.
        public let peakFraction: Double
        /// Multiplications and additions of the matrix products of one image, by their definition.
        public let operationsPerImage: Double
    }

    private static let probeInterval = Duration.milliseconds(500)

    public func run() throws -> Result {
        let set = ParameterSet()
        _ = architecture.makeBase(ParameterScope(set), .deployment)
        let pool = BufferPool()
        set.allocate(from: pool)
        set.initialize(seed: 0)
        let model = try Model(architecture: architecture, parameters: set, precision: precision)
        let session = try Session(model: model, threads: Int(hssl_get_threads()))
        var random = CounterRandom(seed: 1)
        let images = (0..<batchSize * model.imageCount).map { _ in random.uniform(-2, 2) }
        var features = [Float](repeating: 0, count: batchSize * model.rowCount(.cls))
        var seconds: [Double] = []
        var peak = GemmBenchmark.Peak()
        peak.probe()
        var probed = ContinuousClock.now
        for step in 0...max(1, steps) {
            // A probe takes ten times a call of batch 1, in which caches and threads cool down: calls follow one
            // another as they do in use.
            if ContinuousClock.now - probed > Self.probeInterval {
                peak.probe()
                probed = .now
            }
            let start = ContinuousClock.now
            try session.extract(images: images, count: batchSize, into: &features)
            // The first run touches all memory for the first time.
            if step > 0 { seconds.append(PretrainBenchmark.seconds(ContinuousClock.now - start)) }
        }
        let rate = Double(batchSize) / seconds.sorted()[seconds.count / 2]
        let done = model.operations(.cls, asPerformed: true)
        return Result(
            imagesPerSecond: rate, peakRSSBytes: Int(hssl_peak_rss()),
            peakFraction: rate * done / (precision == .int8 ? peak.int8 : peak.float32),
            operationsPerImage: model.operations(.cls))
    }
}
