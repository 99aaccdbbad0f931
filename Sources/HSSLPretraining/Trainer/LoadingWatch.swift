import CSupport
import Glibc

/// Says once when much of the processors' time goes into decoding images and drawing views: then pictures decide how
/// long a run takes, epoch after epoch, and no kernel can help.
struct LoadingWatch {
    /// Part of the time from which on it is said.
    static let share = 0.3
    /// Updates that do not count: the loader begins with nothing in stock.
    static let first = 2
    /// Updates and seconds after which it is decided.
    static let updates = 5, seconds = 20.0

    /// Pixels of an image's shorter side below which the smallest crops are enlarged.
    let neededSide: Int
    /// That the run's threads may use.
    private let processors: Double
    private var seen = 0
    private var time = 0.0, loading = 0.0, sides = 0.0
    private var decided = false

    /// - Parameter threads: of the run.
    init(neededSide: Int, threads: Int) {
        self.neededSide = neededSide
        processors = Double(min(max(1, threads), Int(hssl_available_processors())))
    }

    /// - Parameters:
    ///   - seconds: that an update took.
    ///   - share: of the processors' time in it that loading took.
    ///   - side: mean of the images' shorter sides, pixels.
    mutating func warning(seconds: Double, share: Double, side: Double) -> String? {
        seen += 1
        guard !decided, seen > Self.first else { return nil }
        time += seconds
        loading += share * seconds
        sides += side
        let counted = seen - Self.first
        guard counted >= Self.updates, time >= Self.seconds else { return nil }
        decided = true
        guard loading > Self.share * time else { return nil }
        let text = "loading images takes \(fixed(100 * loading / time, places: 0)) % of the processors' time"
        let mean = Int(sides / Double(counted))
        guard mean > 2 * neededSide else { return text }
        return text + ": their shorter sides have \(mean) pixels on average, and views need \(neededSide) at most; "
            + "learn from copies that were shrunk once"
    }

    /// Part of the processors' time in `seconds` that loading took.
    func share(of loading: Double, in seconds: Double) -> Double {
        min(1, loading / max(1e-9, seconds * processors))
    }

    /// Processor time of the calling thread, seconds.
    static func threadSeconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return Double(time.tv_sec) + 1e-9 * Double(time.tv_nsec)
    }
}
