import HSSLData
import HSSLFormats
import HSSLGraph

/// Images over which an int8 model is measured against its float32 one.
public struct CalibrationImages {
    /// Where they are from, as provenance names it: a data set's name, or `generated`.
    public let source: String
    /// Prepared, [C, H, W] each.
    package let images: [[Float]]
    /// What could not be read, a line each.
    package let notes: [String]

    /// Evenly spread over a data set.
    ///
    /// - Throws: `DataError`; `PretrainingError` where no image can be read.
    public init(data path: String, preprocessing: Preprocessing) throws {
        let dataset = try Dataset(path: path)
        let step = max(1, dataset.count / Self.limit)
        var images: [[Float]] = [], notes: [String] = []
        for index in stride(from: 0, to: dataset.count, by: step).prefix(Self.limit) {
            do {
                images.append(
                    preprocessing.apply(to: try dataset.image(index, background: preprocessing.background)))
            } catch {
                notes.append("skipped \(error)")
            }
        }
        guard !images.isEmpty else { throw PretrainingError("--calibration \(path): no image could be read") }
        (self.images, self.notes) = (images, notes)
        source = path.split(separator: "/").last.map(String.init) ?? path
    }

    private static let limit = 64

    /// Those that an export is asked to measure over; generated ones where it is not.
    package init(_ options: Int8Options, _ preprocessing: Preprocessing) throws {
        if let data = options.calibration {
            try self.init(data: data, preprocessing: preprocessing)
        } else {
            self.init(generatedFor: preprocessing)
        }
    }

    /// Pictures of no thing with the statistics of photographs: brightness and colour that vary over all scales, about
    /// half as strongly at each finer one, and in every other picture a shape on an even ground. The same every time.
    public init(generatedFor preprocessing: Preprocessing) {
        (source, notes) = ("generated", [])
        images = (0..<16).map { preprocessing.apply(to: Self.picture($0, side: preprocessing.resize)) }
    }

    private static func picture(_ number: Int, side: Int) -> RGBImage {
        var random = CounterRandom(seed: 0, stream: 0x4341_4C49, UInt64(number))
        // Brightness, then two differences of colour.
        let fields = (0..<3).map { _ in field(side, &random) }
        let (brightness, contrast) = (random.uniform(0.2, 0.8), random.uniform(0.15, 0.5))
        let colour = random.uniform(0, 0.3)
        let ground = number % 2 == 1 ? random.uniform(0, 1) : nil
        var pixels: [UInt8] = []
        pixels.reserveCapacity(3 * side * side)
        for place in 0..<side * side {
            let light = brightness + contrast * fields[0][place]
            let (a, b) = (colour * fields[1][place], colour * fields[2][place])
            let isGround = fields[0][place] < 0
            for value in [light + a, light - (a + b) / 2, light + b] {
                let shown = isGround ? ground ?? value : value
                pixels.append(UInt8(255 * min(max(shown, 0), 1)))
            }
        }
        return RGBImage(width: side, height: side, pixels: pixels)
    }

    /// Values around 0, most of them within ±1: noise of every scale, interpolated.
    private static func field(_ side: Int, _ random: inout CounterRandom) -> [Float] {
        var field = [Float](repeating: 0, count: side * side)
        var amplitude: Float = 1
        var cells = 2
        while cells <= side, amplitude > 0.03 {
            let knots = (0..<(cells + 1) * (cells + 1)).map { _ in random.uniform(-1, 1) }
            let scale = Float(cells) / Float(side)
            for row in 0..<side {
                for column in 0..<side {
                    let (y, x) = (Float(row) * scale, Float(column) * scale)
                    let (top, left) = (Int(y), Int(x))
                    let (v, u) = (y - Float(top), x - Float(left))
                    let first = top * (cells + 1) + left, second = first + cells + 1
                    let above = knots[first] + u * (knots[first + 1] - knots[first])
                    let below = knots[second] + u * (knots[second + 1] - knots[second])
                    field[row * side + column] += amplitude * (above + v * (below - above))
                }
            }
            cells *= 2
            amplitude /= 2
        }
        return field
    }
}
