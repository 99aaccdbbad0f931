import CSupport
import HSSLData
import HSSLFormats
import HSSLGraph

/// The crops that self-supervised pretraining looks at: two global views of an image and any number of local ones
/// (DINO's and iBOT's multi-crop).
///
/// A view is: random resized crop (bicubic, Pillow's pixels) → flip → colour jitter → greyscale → Gaussian blur →
/// solarize → normalise. Steps and the order of their draws are torchvision's and DINO's; global view 1, global view 2
/// and local views differ in the probabilities of blur and solarize.
///
/// A view is a pure function of (image, seed, epoch, index, view): which thread makes it, and in which order, does not
/// matter.
public struct MultiCropAugmentation: Sendable {
    /// What decides the draws for one image.
    public struct Key: Equatable, Sendable {
        /// The recipe's `schedule.seed`.
        public var seed: UInt64
        /// The pass over the images, from 0; where a bank of views is replayed, the number of the draw.
        public var epoch: Int
        /// The image's place in the data set.
        public var index: Int

        /// A key of these three numbers.
        public init(seed: UInt64, epoch: Int, index: Int) {
            self.seed = seed
            self.epoch = epoch
            self.index = index
        }
    }

    /// Global views of every image.
    public static let globalViews = 2
    /// Local views of every image, 0 or more.
    public let localViews: Int
    /// Side of a global view, pixels.
    public let globalSize: Int
    /// Side of a local view, pixels.
    public let localSize: Int
    /// On which transparent pictures are decoded.
    package let background: RGBColor

    private let configuration: Recipe.Data
    private let mean: [Float]
    private let std: [Float]

    /// Sets these draws apart from the run's other random streams ("augm").
    private static let purpose: UInt64 = 0x6175_676D

    /// - Parameters:
    ///   - configuration: a recipe's `data` section, as validated when it was read.
    ///   - imageSize: side of a global view, pixels.
    public init(_ configuration: Recipe.Data, imageSize: Int) {
        self.configuration = configuration
        globalSize = imageSize
        localSize = configuration.localCropsSize
        localViews = configuration.localCrops
        background = configuration.background
        mean = configuration.mean.map { Float($0) }
        std = configuration.std.map { Float($0) }
    }

    /// All views of one image: global 1, global 2, then the local ones.
    public var viewCount: Int { Self.globalViews + localViews }

    /// Side of a view, pixels.
    ///
    /// - Parameter view: 0 ..< ``viewCount``.
    public func size(ofView view: Int) -> Int { view < Self.globalViews ? globalSize : localSize }

    /// Pixels of an image's shorter side below which the smallest crops are enlarged.
    var neededSide: Int {
        func side(_ size: Int, _ scale: [Double]) -> Int { Int((Double(size) / scale[0].squareRoot()).rounded(.up)) }
        let global = side(globalSize, configuration.globalCropsScale)
        return localViews == 0 ? global : max(global, side(localSize, configuration.localCropsScale))
    }

    /// Elements of a view, [3, side, side].
    public func count(ofView view: Int) -> Int { 3 * size(ofView: view) * size(ofView: view) }

    /// Makes every view; view v goes to `destination(v)`, which must hold `count(ofView: v)` elements.
    package func views(of image: RGBImage, key: Key, destination: (Int) -> UnsafeMutablePointer<Float>) {
        for view in 0..<viewCount { make(view: view, of: image, key: key, into: destination(view)) }
    }

    /// Makes one view: [3, side, side] normalised floats.
    package func make(view: Int, of image: RGBImage, key: Key, into output: UnsafeMutablePointer<Float>) {
        let side = size(ofView: view)
        let plan = draw(view: view, width: image.width, height: image.height, key: key)
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 3 * side * side) { pixels in
            guard let rgb = pixels.baseAddress else { return }
            plan.render(image, side: side, into: rgb)
            hssl_normalize_rgb(side * side, rgb, mean, std, output)
        }
    }

    /// Draws what will be done to a view. Every draw is made whether or not it is used, so that switching one step off
    /// leaves the others' draws alone.
    func draw(view: Int, width: Int, height: Int, key: Key) -> ViewPlan {
        var random = CounterRandom(
            seed: key.seed, stream: Self.purpose, UInt64(bitPattern: Int64(key.epoch)),
            UInt64(bitPattern: Int64(key.index)), UInt64(bitPattern: Int64(view)))
        let settings = configuration
        let flips = Self.happens(settings.flipProbability, &random)
        let jitters = Self.happens(settings.colorJitterProbability, &random)
        let grays = Self.happens(settings.grayscaleProbability, &random)
        let kind = min(view, Self.globalViews)  // all local views are alike
        let blurs = Self.happens(settings.blurProbability[kind], &random)
        let solarizes = Self.happens(settings.solarizeProbability, &random) && view == 1

        let order = random.shuffled([ColorAdjustment.Property.brightness, .contrast, .saturation, .hue])
        let adjustments = order.map { property in
            let reach = Float(settings.colorJitter[property.rawValue])
            let value = property == .hue ? random.uniform(-reach, reach) : random.uniform(max(0, 1 - reach), 1 + reach)
            return ColorAdjustment(property: property, value: value)
        }
        let radius = random.uniform(Float(settings.blurRadius[0]), Float(settings.blurRadius[1]))
        let scale = view < Self.globalViews ? settings.globalCropsScale : settings.localCropsScale
        let crop = RandomResizedCrop(scale: scale[0]...scale[1]).draw(width: width, height: height, &random)
        return ViewPlan(
            crop: crop, flips: flips,
            adjustments: jitters ? adjustments.filter { settings.colorJitter[$0.property.rawValue] > 0 } : [],
            grays: grays, blurRadius: blurs ? radius : nil,
            solarizeThreshold: solarizes ? settings.solarizeThreshold : nil)
    }

    private static func happens(_ probability: Double, _ random: inout CounterRandom) -> Bool {
        Double(random.uniform()) < probability
    }
}

/// One step of colour jitter.
struct ColorAdjustment: Equatable, Sendable {
    /// In the order of the recipe's `color_jitter`.
    enum Property: Int, Sendable {
        case brightness, contrast, saturation, hue
    }

    let property: Property
    /// A factor around 1; for the hue, a shift in turns.
    let value: Float
}

/// What one view is made of: the outcome of all draws.
struct ViewPlan: Equatable, Sendable {
    let crop: CropRectangle
    let flips: Bool
    /// In the order of application; empty when the view is not jittered.
    let adjustments: [ColorAdjustment]
    let grays: Bool
    /// Standard deviation in pixels.
    let blurRadius: Float?
    let solarizeThreshold: Int?

    /// Writes the view as 8-bit RGB, [side, side, 3].
    func render(_ image: RGBImage, side: Int, into rgb: UnsafeMutablePointer<UInt8>) {
        var resize = hssl_resize_whole(crop.width, crop.height, side, side)
        let resizeSpace = hssl_resize_bicubic_workspace_size(&resize)
        let blurSpace = blurRadius == nil ? 0 : hssl_gaussian_blur_workspace_size(side, side)
        withUnsafeTemporaryAllocation(byteCount: max(resizeSpace, blurSpace), alignment: 64) { workspace in
            image.pixels.withUnsafeBufferPointer { pixels in
                guard let first = pixels.baseAddress else { return }
                hssl_resize_bicubic(
                    &resize, first + 3 * (crop.top * image.width + crop.left), 3 * image.width, rgb,
                    workspace.baseAddress)
            }
            if flips { hssl_flip_horizontal(side, side, rgb) }
            let count = side * side
            for adjustment in adjustments {
                switch adjustment.property {
                case .brightness: hssl_adjust_brightness(count, rgb, adjustment.value)
                case .contrast: hssl_adjust_contrast(count, rgb, adjustment.value)
                case .saturation: hssl_adjust_saturation(count, rgb, adjustment.value)
                case .hue: hssl_adjust_hue(count, rgb, adjustment.value)
                }
            }
            if grays { hssl_grayscale(count, rgb) }
            if let blurRadius { hssl_gaussian_blur(side, side, rgb, blurRadius, workspace.baseAddress) }
            if let solarizeThreshold { hssl_solarize(count, rgb, Int32(solarizeThreshold)) }
        }
    }
}
